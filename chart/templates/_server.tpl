{{/* Called with (list $ replicas). */}}
{{- define "pantry.strategy" -}}
{{- $root := index . 0 }}
{{- if eq $root.Values.storage.mode "disk" -}}
type: Recreate # two pods cannot be sure to get one ReadWriteOnce volume at once
{{- else }}
{{- /* Few pools have a GPU to spare: a pod beyond `replicas` would wait for one for ever. */}}
{{- $scarce := and $root.Values.gpu.count (gt (int64 (index . 1)) 1) -}}
type: RollingUpdate
rollingUpdate:
  {{- with $root.Values.rollout }}
  maxSurge: {{ if eq (toString .maxSurge) "" }}{{ ternary 0 1 (not (empty $scarce)) }}{{ else }}{{ include "pantry.text" .maxSurge }}{{ end }}
  maxUnavailable: {{ if eq (toString .maxUnavailable) "" }}{{ ternary 1 0 (not (empty $scarce)) }}{{ else }}{{ include "pantry.text" .maxUnavailable }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Where models are swapped, nothing here depends on `models`, nor ever on the chart's version: a change of this template
restarts the pods, and gigabytes are loaded anew. Where they are rolled out, models.yaml is part of the template.
Called with (list $ "stable").
*/}}
{{- define "pantry.server.pod" -}}
{{- $track := index . 1 }}
{{- $root := index . 0 }}
{{- $rolling := eq (include "pantry.rollout" $root) "rolling" }}
{{- $ephemeral := eq $root.Values.storage.mode "ephemeral" }}
{{- $models := (include "pantry.models" . | fromJson).models }}
{{- with $root -}}
metadata:
  labels:
    {{- include "pantry.track.selectorLabels" (list . $track) | nindent 4 }}
    {{- with .Values.server.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := .Values.server.podAnnotations }}
  {{- if $rolling }}
  {{- $annotations = merge (ternary (include "pantry.sync.annotations" (list . $models)) (printf "pantry/models.yaml: %s" (include "pantry.models.yaml" (list . $models) | quote)) $ephemeral | fromYaml) $annotations }}
  {{- end }}
  {{- with $annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ if $ephemeral }}{{ include "pantry.sync.serviceAccount" . }}{{ else }}{{ include "pantry.fullname" . }}{{ end }}
  {{- include "pantry.pod" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ add (include "pantry.drainingSeconds" .) 15 }}
  {{- if $ephemeral }}
  initContainers:
  - {{- include "pantry.sync.container" (list . (include "pantry.image" (list . .Values.image)) 1) | nindent 4 }}
  {{- end }}
  containers:
  - {{- include "pantry.server.container" . | nindent 4 }}
  {{- with .Values.server.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  volumes:
  - name: models
    {{- include "pantry.server.models" . | nindent 4 }}
  {{- if $ephemeral }}
  {{- include "pantry.sync.volumes" . | nindent 2 }}
  {{- else }}
  - name: desired
    {{- if $rolling }}
    {{- include "pantry.annotationFiles" (dict "models.yaml" "pantry/models.yaml") | nindent 4 }}
    {{- else }}
    configMap: {name: {{ include "pantry.track.name" (list . $track) }}}
    {{- end }}
  {{- end }}
  {{- if include "pantry.access.secret" . }}
  {{- include "pantry.access.volume" . | nindent 2 }}
  {{- end }}
  - name: tmp
    emptyDir: {}
  {{- with .Values.server.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with include "pantry.nodeSelector" . }}
  nodeSelector: {{- . | nindent 4 }}
  {{- end }}
  {{- with include "pantry.tolerations" . }}
  tolerations: {{- . | nindent 2 }}
  {{- end }}
  {{- with include "pantry.affinity" (list . $track) }}
  affinity: {{- . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The volume's source, by storage.mode. */}}
{{- define "pantry.server.models" -}}
{{- if eq .Values.storage.mode "custom" -}}
{{- toYaml .Values.storage.custom }}
{{- else if eq .Values.storage.mode "ephemeral" -}}
ephemeral:
  volumeClaimTemplate:
    spec: {{- include "pantry.claim.spec" . | nindent 6 }}
{{- else -}}
persistentVolumeClaim: {claimName: {{ include "pantry.claim" . }}}
{{- end }}
{{- end }}

{{- define "pantry.server.container" -}}
name: server
{{ include "pantry.container" (list . (include "pantry.image" (list . .Values.image))) }}
command: [pantry-serve]
args: [--models, /etc/pantry/models.yaml, --volume, /mnt/models, --bind, "0.0.0.0:8080", --admin, "0.0.0.0:8081"]
env:
- {name: HOME, value: /tmp}
{{- range list "workers" "threads" "maxQueue" "predictSeconds" "requestSeconds" "maxBodyBytes" "loadTimeoutSeconds" "drainSeconds" "prefer" }}
- {name: PANTRY_{{ snakecase . | upper }}, value: {{ include "pantry.text" (get $.Values.server .) | quote }}}
{{- end }}
- {name: PANTRY_KEEPALIVE_SECONDS, value: {{ include "pantry.text" .Values.server.keepAliveSeconds | quote }}}
{{- with include "pantry.access.env" . }}{{ . | nindent 0 }}{{ end }}
{{- with .Values.server.extraEnv }}{{ include "pantry.env" . | nindent 0 }}{{ end }}
ports:
- {name: http, containerPort: 8080}
- {name: admin, containerPort: 8081}
# The supervisor answers /livez from its first second, whatever its models do: a long sync or load is no reason to kill it.
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- with .Values.server.preStopSeconds }}
lifecycle:
  preStop: {exec: {command: [sleep, {{ include "pantry.text" . | quote }}]}} # Kubernetes' own sleep came with 1.30
{{- end }}
resources: {{- include "pantry.resources" . | nindent 2 }}
volumeMounts:
- {name: models, mountPath: /mnt/models, readOnly: true} # here, not on the volume: the sync writes it, on a disk from this node
- {name: desired, mountPath: /etc/pantry, readOnly: true} # the directory, no subPath: updates arrive
{{- if include "pantry.access.secret" . }}
- {name: access, mountPath: /etc/pantry-access, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- with .Values.server.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

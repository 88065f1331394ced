{{/* The Job is named by the digest of its spec: it runs again if and only if that changed, and nobody edits what is immutable. Called with (list $ "stable"). */}}
{{- define "pantry.sync.name" -}}
{{ include "pantry.fullname" (index . 0) }}-sync-{{ include "pantry.sync.spec" . | fromYaml | toJson | sha256sum | trunc 10 }}
{{- end }}

{{/* The canary's Job brings what is tried, and prunes one later: the stable track's version is not to go. */}}
{{- define "pantry.sync.spec" -}}
{{- $root := index . 0 }}
{{- $stable := eq (index . 1) "stable" }}
{{- with $root -}}
backoffLimit: {{ .Values.sync.backoffLimit | int64 }}
activeDeadlineSeconds: {{ .Values.sync.timeoutSeconds | int64 }}
{{- if not (kindIs "invalid" .Values.sync.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ .Values.sync.ttlSecondsAfterFinished | int64 }}
{{- end }}
podFailurePolicy:
  rules:
  - action: Ignore # a drained or preempted node is nobody's failure
    onPodConditions: [{type: DisruptionTarget, status: "True"}]
  - action: FailJob # wrong use: the next attempt would be as wrong
    onExitCodes: {containerName: sync, operator: In, values: [2]}
    onPodConditions: [] # Kubernetes 1.28 documents it as required, and Helm 3 goes by that
template:
  metadata:
    labels:
      {{- include "pantry.selectorLabels" (list . "sync") | nindent 6 }}
      {{- if not $stable }}
      pantry/track: canary
      {{- end }}
    annotations: {{- include "pantry.sync.annotations" (list . (ternary (include "pantry.models" $ | fromJson).models .Values.canary.models $stable)) | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "pantry.sync.serviceAccount" . }}
    {{- include "pantry.pod" . | nindent 4 }}
    {{- if eq .Values.storage.mode "disk" }}
    affinity:
      podAffinity:
        requiredDuringSchedulingIgnoredDuringExecution: {{- list (include "pantry.besideTheServer" . | fromYaml) | toYaml | nindent 8 }}
    {{- else }}
    {{- with .Values.sync.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- end }}
    {{- $tolerations := .Values.sync.tolerations }}
    {{- if eq .Values.storage.mode "disk" }}
    {{- $tolerations = concat $tolerations (include "pantry.tolerations" . | fromYamlArray) }}
    {{- end }}
    {{- with $tolerations }}
    tolerations: {{- toYaml . | nindent 4 }}
    {{- end }}
    containers:
    - {{- include "pantry.sync.container" (list . (include "pantry.image" (list . .Values.sync.image)) (ternary .Values.sync.retain (add .Values.sync.retain 1) $stable)) | nindent 6 }}
    volumes:
    - name: models
      persistentVolumeClaim: {claimName: {{ include "pantry.claim" . }}}
    {{- include "pantry.sync.volumes" . | nindent 4 }}
    - name: tmp
      emptyDir: {}
{{- end }}
{{- end }}

{{/* The pod's own copy of what to sync: on an upgrade a ConfigMap may already, or still, say something else when a pod mounts it. Called with (list $ models). */}}
{{- define "pantry.sync.annotations" -}}
{{- $root := index . 0 -}}
pantry/models.yaml: |
  {{- include "pantry.models.yaml" . | nindent 2 }}
{{- range $i, $key := $root.Values.sync.publicKeys }}
pantry/public-key-{{ $i }}.pem: {{ $key | quote }}
{{- end }}
{{- with $root.Values.sync.rerun }}
pantry/rerun: {{ include "pantry.text" . | quote }}
{{- end }}
{{- end }}

{{/* Called with (list $ image retain). */}}
{{- define "pantry.sync.container" -}}
{{- $retain := index . 2 }}
{{- $image := index . 1 }}
{{- with index . 0 -}}
name: sync
{{ include "pantry.container" (list . $image) }}
command: [pantry]
args:
- sync
- --json
- --models=/etc/pantry/models.yaml
- --volume=/mnt/models
- --retain={{ include "pantry.text" $retain }}
{{- range $i, $_ := .Values.sync.publicKeys }}
- --public-key=/etc/pantry/public-key-{{ $i }}.pem
{{- end }}
{{- if .Values.sync.pack }}
- --pack
{{- end }}
{{- with include "pantry.access.arguments" . }}{{ . | nindent 0 }}{{ end }}
env:
- {name: HOME, value: /tmp}
{{- with .Values.sync.extraEnv }}{{ include "pantry.env" . | nindent 0 }}{{ end }}
resources: {{- toYaml .Values.sync.resources | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError # the pod's status then ends with the sentence that says why
volumeMounts:
- {name: models, mountPath: /mnt/models}
- {name: desired, mountPath: /etc/pantry, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- with .Values.sync.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.sync.volumes" -}}
{{- $files := dict "models.yaml" "pantry/models.yaml" }}
{{- range $i, $_ := .Values.sync.publicKeys }}{{ $name := printf "public-key-%d.pem" $i }}{{ $_ := set $files $name (printf "pantry/%s" $name) }}{{ end -}}
- name: desired
  {{- include "pantry.annotationFiles" $files | nindent 2 }}
{{- with .Values.sync.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of the one claim, or of each pod's. */}}
{{- define "pantry.claim.spec" -}}
accessModes: [{{ ternary "ReadWriteMany" "ReadWriteOnce" (eq .Values.storage.mode "shared") }}]
{{- with .Values.storage.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests: {storage: {{ include "pantry.text" .Values.storage.size | quote }}}
{{- end }}

{{/* What whoever syncs may reach: names, and the rest. */}}
{{- define "pantry.sync.egress" -}}
{{- $rules := .Values.networkPolicy.sync.egress }}
{{- with .Values.networkPolicy.sync.dns }}
{{- $rules = prepend $rules (dict "to" . "ports" (list (dict "port" 53 "protocol" "UDP") (dict "port" 53 "protocol" "TCP"))) }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{/* models.yaml, the one file that the sync and the server read. */}}
{{- define "pantry.models.yaml" -}}
models:
{{- range .Values.models }}
- name: {{ .name | quote }}
  version: {{ include "pantry.text" .version | quote }}
  storageUri: {{ .storageUri | quote }}
  {{- with .digest }}
  digest: {{ . | quote }}
  {{- end }}
  load: {{ .load | default "eager" }}
{{- end }}
{{- end }}

{{/* The Job is named by the digest of its spec: it runs again if and only if that changed, and nobody edits what is immutable. */}}
{{- define "pantry.sync.name" -}}
{{ include "pantry.fullname" . }}-sync-{{ include "pantry.sync.spec" . | fromYaml | toJson | sha256sum | trunc 10 }}
{{- end }}

{{- define "pantry.sync.spec" -}}
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
template:
  metadata:
    labels: {{- include "pantry.selectorLabels" (list . "sync") | nindent 6 }}
    annotations:
      # The Job's own copy: on an upgrade the ConfigMap may already, or still, say something else when a pod of this Job mounts it.
      pantry/models.yaml: |
        {{- include "pantry.models.yaml" . | nindent 8 }}
      {{- with .Values.sync.rerun }}
      pantry/rerun: {{ include "pantry.text" . | quote }}
      {{- end }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "pantry.sync.serviceAccount" . }}
    {{- include "pantry.pod" . | nindent 4 }}
    affinity:
      podAffinity: # the server's node, because a ReadWriteOnce volume is on one node only
        requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "pantry.server.selectorLabels" . | nindent 14 }}
    {{- with include "pantry.tolerations" . }}
    tolerations: {{- . | nindent 4 }}
    {{- end }}
    containers:
    - name: sync
      {{- include "pantry.container" . | nindent 6 }}
      command: [pantry]
      args: [sync, --json, --models, /etc/pantry/models.yaml, --volume, /mnt/models, --retain, {{ include "pantry.text" .Values.sync.retain | quote }}]
      env:
      - {name: HOME, value: /tmp}
      {{- with .Values.sync.extraEnv }}{{ include "pantry.env" . | nindent 6 }}{{ end }}
      resources: {{- toYaml .Values.sync.resources | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError # the pod's status then ends with the sentence that says why
      volumeMounts:
      - {name: models, mountPath: /mnt/models}
      - {name: desired, mountPath: /etc/pantry, readOnly: true}
      - {name: tmp, mountPath: /tmp}
    volumes:
    - name: models
      persistentVolumeClaim: {claimName: {{ include "pantry.claim" . }}}
    - name: desired
      downwardAPI:
        items: [{path: models.yaml, fieldRef: {fieldPath: "metadata.annotations['pantry/models.yaml']"}}]
    - name: tmp
      emptyDir: {}
{{- end }}

{{/* "digits=1 faces=2": for people, and for `helm test`. */}}
{{- define "pantry.models.list" -}}
{{- $list := list }}
{{- range .Values.models }}{{ $list = append $list (printf "%s=%s" .name (include "pantry.text" .version)) }}{{ end }}
{{- join " " $list }}
{{- end }}

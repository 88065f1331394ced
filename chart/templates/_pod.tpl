{{/* What every pod of the chart has: no token, no environment from neighbours, Pod Security `restricted`. */}}
{{- define "pantry.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch # else every start walks through the whole volume
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Called with (list $ image). */}}
{{- define "pantry.container" -}}
image: {{ index . 1 | quote }}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* The reference of an image: of `image`, or of `sync.image`, whose repository is the same unless it says so. Called with (list $ image). */}}
{{- define "pantry.image" -}}
{{- $root := index . 0 }}
{{- $repository := (index . 1).repository | default $root.Values.image.repository }}
{{- with index . 1 }}
{{- if .digest }}{{ $repository }}@{{ .digest }}{{ else }}{{ $repository }}:{{ include "pantry.text" .tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Called with a list of {name, value} or {name, valueFrom}. */}}
{{- define "pantry.env" -}}
{{- range $i, $_ := . }}{{ if $i }}
{{ end -}}
- name: {{ .name }}
  {{- if .valueFrom }}
  valueFrom: {{- toYaml .valueFrom | nindent 4 }}
  {{- else }}
  value: {{ include "pantry.text" (.value | default "") | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A volume of annotations of the pod itself, as files: they can no more change under a pod than its image. Called with {file: annotation}. */}}
{{- define "pantry.annotationFiles" -}}
downwardAPI:
  items:
  {{- range $file, $annotation := . }}
  - {path: {{ $file }}, fieldRef: {fieldPath: "metadata.annotations['{{ $annotation }}']"}}
  {{- end }}
{{- end }}

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

{{- define "pantry.container" -}}
image: {{ include "pantry.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "pantry.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ include "pantry.text" .tag | default $.Chart.AppVersion }}{{ end }}
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

{{- define "pantry.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.count }}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .Values.gpu.count) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "pantry.nodeSelector" -}}
{{- $selector := deepCopy .Values.nodeSelector }}
{{- with .Values.gke.nodePool }}{{ $_ := set $selector "cloud.google.com/gke-nodepool" . }}{{ end }}
{{- with .Values.gke.accelerator }}{{ $_ := set $selector "cloud.google.com/gke-accelerator" . }}{{ end }}
{{- with $selector }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* The GPU's is spelt out: GKE adds it to pods that ask for a GPU, and the sync, which has to get there too, asks for none. */}}
{{- define "pantry.tolerations" -}}
{{- $tolerations := .Values.tolerations }}
{{- if .Values.gpu.count }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* preStop and drain run one after the other; what is left is for the processes to end. */}}
{{- define "pantry.drainingSeconds" -}}
{{- add .Values.server.preStopSeconds .Values.server.drainSeconds }}
{{- end }}

{{/* A pod is unready while its models are synced and loaded, and that is progress; the rest is for scheduling and pulling. */}}
{{- define "pantry.progressSeconds" -}}
{{- add .Values.sync.timeoutSeconds .Values.server.loadTimeoutSeconds 300 }}
{{- end }}

{{- define "pantry.service.annotations" -}}
{{- $annotations := deepCopy .Values.service.annotations }}
{{- if .Values.gke.enabled }}
{{- $_ := set $annotations "cloud.google.com/backend-config" (dict "default" (include "pantry.fullname" .) | toJson) }}
{{- if .Values.gke.neg }}{{ $_ := set $annotations "cloud.google.com/neg" (dict "ingress" true | toJson) }}{{ end }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "pantry.ingress.annotations" -}}
{{- $annotations := deepCopy .Values.ingress.annotations }}
{{- if .Values.gke.enabled }}
{{- /* Google's controller goes by the annotation, and leaves alone what has a spec.ingressClassName. */}}
{{- $_ := set $annotations "kubernetes.io/ingress.class" "gce" }}
{{- with .Values.gke.staticIpName }}{{ $_ := set $annotations "kubernetes.io/ingress.global-static-ip-name" . }}{{ end }}
{{- with .Values.gke.preSharedCerts }}{{ $_ := set $annotations "ingress.gcp.kubernetes.io/pre-shared-cert" (join "," .) }}{{ end }}
{{- if .Values.ingress.tls.enabled }}{{ $_ := set $annotations "kubernetes.io/ingress.allow-http" "false" }}{{ end }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "pantry.ingress.backend" -}}
service: {name: {{ include "pantry.fullname" . }}, port: {name: http}}
{{- end }}

{{- define "pantry.backendConfig" -}}
healthCheck: {type: HTTP, requestPath: /healthz, checkIntervalSec: 10, timeoutSec: 5, healthyThreshold: 1, unhealthyThreshold: 3}
timeoutSec: 300
connectionDraining: {drainingTimeoutSec: {{ include "pantry.drainingSeconds" . }}}
{{- end }}

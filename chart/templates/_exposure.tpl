{{- define "pantry.service.annotations" -}}
{{- $annotations := deepCopy .Values.service.annotations }}
{{- if and .Values.gke.enabled (not .Values.gateway.enabled) }}
{{- $_ := set $annotations "cloud.google.com/backend-config" (dict "default" (include "pantry.fullname" .) | toJson) }}
{{- if .Values.gke.neg }}{{ $_ := set $annotations "cloud.google.com/neg" (dict "ingress" true | toJson) }}{{ end }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "pantry.ingress.annotations" -}}
{{- $annotations := deepCopy .Values.ingress.annotations }}
{{- with .Values.ingress.tls }}
{{- if and .enabled .clusterIssuer }}{{ $_ := set $annotations "cert-manager.io/cluster-issuer" .clusterIssuer }}{{ end }}
{{- end }}
{{- $tls := .Values.ingress.tls.enabled }}
{{- $frontend := include "pantry.frontendConfig" . }}
{{- $name := include "pantry.fullname" . }}
{{- with .Values.gke }}
{{- if .enabled }}
{{- /* Google's controller goes by the annotation, and leaves alone what has a spec.ingressClassName. */}}
{{- $_ := set $annotations "kubernetes.io/ingress.class" "gce" }}
{{- with .staticIpName }}{{ $_ := set $annotations "kubernetes.io/ingress.global-static-ip-name" . }}{{ end }}
{{- with .preSharedCerts }}{{ $_ := set $annotations "ingress.gcp.kubernetes.io/pre-shared-cert" (join "," .) }}{{ end }}
{{- if .managedCertificate }}{{ $_ := set $annotations "networking.gke.io/managed-certificates" $name }}{{ end }}
{{- if $frontend }}{{ $_ := set $annotations "networking.gke.io/v1beta1.FrontendConfig" $name }}{{ end }}
{{- if and $tls (not .redirectToHttps) }}{{ $_ := set $annotations "kubernetes.io/ingress.allow-http" "false" }}{{ end }}
{{- end }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "pantry.ingress.backend" -}}
service: {name: {{ include "pantry.fullname" . }}, port: {name: http}}
{{- end }}

{{/* Whether there is one: it redirects, which wants port 80 open, or has a policy for TLS. */}}
{{- define "pantry.frontendConfig" -}}
{{- with .Values }}
{{- if and .ingress.enabled .gke.enabled .ingress.tls.enabled (or .gke.redirectToHttps .gke.sslPolicy) }}yes{{ end }}
{{- end }}
{{- end }}

{{/* An answer may wait for its model and take as long again on its way; the load balancer gives up no sooner. */}}
{{- define "pantry.backendConfig" -}}
healthCheck: {type: HTTP, requestPath: /healthz, checkIntervalSec: 10, timeoutSec: 5, healthyThreshold: 1, unhealthyThreshold: 3}
timeoutSec: {{ max 300 (add .Values.server.predictSeconds .Values.server.requestSeconds) }}
connectionDraining: {drainingTimeoutSec: {{ include "pantry.drainingSeconds" . }}}
{{- end }}

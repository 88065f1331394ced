{{- define "pantry.validate.ingress" -}}
{{- $tls := .Values.ingress.tls }}
{{- $gke := .Values.gke }}
{{- $certificate := or (include "pantry.tls.secretName" .) $gke.preSharedCerts $gke.managedCertificate }}
{{- if .Values.gateway.enabled }}
{{- fail "ingress.enabled and gateway.enabled are both true: keep one way in." }}
{{- end }}
{{- if and (not $gke.enabled) (or $gke.staticIpName $gke.preSharedCerts $gke.managedCertificate $gke.sslPolicy) }}
{{- fail "gke.staticIpName, gke.preSharedCerts, gke.managedCertificate and gke.sslPolicy are for Google's load balancer: set gke.enabled to true, or remove them." }}
{{- end }}
{{- if and $tls.enabled (not $certificate) }}
{{- fail (printf "the Ingress for %s has no certificate: set ingress.tls.secretName or ingress.tls.clusterIssuer (or gke.preSharedCerts or gke.managedCertificate on GKE), or set ingress.tls.enabled to false to serve plain HTTP." (join ", " .Values.ingress.hosts | default "every host")) }}
{{- end }}
{{- if and (not $tls.enabled) $certificate }}
{{- fail "ingress.tls.enabled is false, but there is a certificate: set it to true, or remove ingress.tls.secretName, ingress.tls.clusterIssuer, gke.preSharedCerts and gke.managedCertificate." }}
{{- end }}
{{- if and $tls.clusterIssuer (not .Values.ingress.hosts) }}
{{- fail "ingress.tls.clusterIssuer issues a certificate for hosts, and ingress.hosts is empty: list them." }}
{{- end }}
{{- if and $gke.enabled .Values.ingress.className }}
{{- fail (printf "ingress.className is %q, but gke.enabled stands for Google's own class, which goes by an annotation: remove ingress.className, or set gke.enabled to false." .Values.ingress.className) }}
{{- end }}
{{- if $gke.managedCertificate }}
{{- if not .Values.ingress.hosts }}
{{- fail "gke.managedCertificate is issued for hosts, and ingress.hosts is empty: list them." }}
{{- end }}
{{- if gt (len .Values.ingress.hosts) 100 }}
{{- fail (printf "gke.managedCertificate covers at most 100 hosts, and ingress.hosts has %d: use gke.preSharedCerts, or several releases." (len .Values.ingress.hosts)) }}
{{- end }}
{{- range .Values.ingress.hosts }}
{{- if or (hasPrefix "*" .) (not (contains "." .)) (gt (len .) 63) }}
{{- fail (printf "gke.managedCertificate cannot be for the host %q: Google issues none for wildcards, for names without a dot, nor above 63 characters. Use gke.preSharedCerts." .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.gateway" -}}
{{- if not .Values.gateway.parentRefs }}
{{- fail "gateway.parentRefs is empty: name the Gateway that the route is for, for example {name: external-http, namespace: infra}." }}
{{- end }}
{{- with .Values.gke }}
{{- if or .staticIpName .preSharedCerts .managedCertificate .sslPolicy }}
{{- fail "gke.staticIpName, gke.preSharedCerts, gke.managedCertificate and gke.sslPolicy are an Ingress's: with gateway.enabled they belong to your Gateway, so remove them here." }}
{{- end }}
{{- if and .enabled .backendConfig }}
{{- fail "gke.backendConfig is merged into an Ingress's BackendConfig: with gateway.enabled, write a GCPBackendPolicy of yours into extraObjects, and remove it." }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.gke" -}}
{{- if and (eq .Values.service.type "ClusterIP") (not .Values.gke.neg) .Values.ingress.enabled }}
{{- fail "service.type is ClusterIP, which Google's load balancer reaches only through network endpoint groups: set gke.neg to true, or service.type to NodePort." }}
{{- end }}
{{- if and (not .Values.gke.neg) (hasKey (.Values.gke.backendConfig.healthCheck | default dict) "port") }}
{{- fail "gke.backendConfig.healthCheck.port is a pod's port, and with gke.neg false Google asks a node's: remove it, or set gke.neg to true." }}
{{- end }}
{{- if le (int64 .Values.server.keepAliveSeconds) 600 }}
{{- fail (printf "server.keepAliveSeconds is %d, but Google's load balancer keeps connections for 600 s and would send requests into closed ones: set it above 600." (int64 .Values.server.keepAliveSeconds)) }}
{{- end }}
{{- end }}

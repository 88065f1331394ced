{{/*
Values that each are right and together are not. (Types, names and typos are values.schema.json's.)
An off switch silences its section: `--set ingress.enabled=false` over a full values file is no contradiction.
*/}}
{{- define "pantry.validate" -}}
{{- include "pantry.validate.names" . }}
{{- include "pantry.validate.models" . }}
{{- include "pantry.validate.placement" . }}
{{- include "pantry.validate.identity" . }}
{{- if .Values.ingress.enabled }}{{ include "pantry.validate.ingress" . }}{{ end }}
{{- if .Values.gke.enabled }}{{ include "pantry.validate.gke" . }}{{ end }}
{{- end }}

{{- define "pantry.validate.names" -}}
{{- $name := include "pantry.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the name %q cannot be a Service's, which starts with a letter and has only lower-case letters, digits and hyphens: choose another release name, or set fullnameOverride." $name) }}
{{- end }}
{{- end }}

{{- define "pantry.validate.models" -}}
{{- if not .Values.models }}
{{- fail "models is empty: list at least one model with its name, version and storageUri." }}
{{- end }}
{{- $seen := dict }}
{{- range .Values.models }}
{{- if hasKey $seen .name }}
{{- fail (printf "models lists %q twice: a model has one version at a time, so remove one entry or rename it." .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- if kindIs "float64" .version }}
{{- if or (ne (float64 (int64 .version)) .version) (gt .version 9007199254740991.0) }}
{{- fail (printf "the version of model %q was read as the number %v, which may not be what you wrote: put it in quotes." .name .version) }}
{{- end }}
{{- end }}
{{- if not (regexMatch "^((gs|s3)://[^/\\s]+/[^\\s]+|https://[^/\\s@?#]+(/[^\\s?#]*)?|file:///[^\\s]+)$" .storageUri) }}
{{- fail (printf "the storageUri of model %q is %q: write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY." .name .storageUri) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.placement" -}}
{{- if and (eq .Values.storage.mode "disk") (gt (int64 .Values.replicas) 1) }}
{{- fail (printf "replicas is %d, but storage.mode disk has one ReadWriteOnce volume, on one node: set replicas to 1." (int64 .Values.replicas)) }}
{{- end }}
{{- if and .Values.gke.accelerator (not .Values.gpu.count) }}
{{- fail "gke.accelerator sends the server to GPU nodes, but gpu.count is 0, so that they would refuse it: set gpu.count, or remove gke.accelerator." }}
{{- end }}
{{- if and .Values.gpu.count (hasKey (.Values.resources.limits | default dict) "nvidia.com/gpu") }}
{{- fail "nvidia.com/gpu is set by gpu.count and by resources.limits: keep gpu.count." }}
{{- end }}
{{- if and .Values.gke.nodePool (hasKey .Values.nodeSelector "cloud.google.com/gke-nodepool") }}
{{- fail "the node pool is set by gke.nodePool and by nodeSelector: keep one." }}
{{- end }}
{{- if and .Values.gke.accelerator (hasKey .Values.nodeSelector "cloud.google.com/gke-accelerator") }}
{{- fail "the accelerator is set by gke.accelerator and by nodeSelector: keep one." }}
{{- end }}
{{- end }}

{{- define "pantry.validate.identity" -}}
{{- with .Values.sync.serviceAccount }}
{{- if and (not .create) (not .name) }}
{{- fail "sync.serviceAccount.create is false, so sync.serviceAccount.name has to name an account that exists." }}
{{- end }}
{{- if and (not .create) .annotations }}
{{- fail "sync.serviceAccount.annotations are for the account that the chart creates: annotate yours yourself, or set sync.serviceAccount.create to true." }}
{{- end }}
{{- if eq (include "pantry.sync.serviceAccount" $) (include "pantry.fullname" $) }}
{{- fail (printf "sync.serviceAccount.name is %q, the server's own account, which must have no cloud identity: choose another." .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.ingress" -}}
{{- $tls := .Values.ingress.tls }}
{{- $gke := .Values.gke }}
{{- if and (not $gke.enabled) (or $gke.staticIpName $gke.preSharedCerts) }}
{{- fail "gke.staticIpName and gke.preSharedCerts are for Google's load balancer: set gke.enabled to true, or remove them." }}
{{- end }}
{{- if and $tls.enabled (not $tls.secretName) (not $gke.preSharedCerts) }}
{{- fail (printf "the Ingress for %s has no certificate: set ingress.tls.secretName (or gke.preSharedCerts on GKE), or set ingress.tls.enabled to false to serve plain HTTP." (join ", " .Values.ingress.hosts | default "every host")) }}
{{- end }}
{{- if and (not $tls.enabled) (or $tls.secretName $gke.preSharedCerts) }}
{{- fail "ingress.tls.enabled is false, but there is a certificate: set it to true, or remove ingress.tls.secretName and gke.preSharedCerts." }}
{{- end }}
{{- if and $gke.enabled .Values.ingress.className }}
{{- fail (printf "ingress.className is %q, but gke.enabled stands for Google's own class, which goes by an annotation: remove ingress.className, or set gke.enabled to false." .Values.ingress.className) }}
{{- end }}
{{- end }}

{{- define "pantry.validate.gke" -}}
{{- if and (eq .Values.service.type "ClusterIP") (not .Values.gke.neg) }}
{{- fail "service.type is ClusterIP, which Google's load balancer reaches only through network endpoint groups: set gke.neg to true, or service.type to NodePort." }}
{{- end }}
{{- if le (int64 .Values.server.keepAliveSeconds) 600 }}
{{- fail (printf "server.keepAliveSeconds is %d, but Google's load balancer keeps connections for 600 s and would send requests into closed ones: set it above 600." (int64 .Values.server.keepAliveSeconds)) }}
{{- end }}
{{- end }}

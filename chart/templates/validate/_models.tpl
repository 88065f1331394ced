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
{{- include "pantry.validate.list" (list . "models" .Values.models) }}
{{- if gt (len (include "pantry.models.yaml" (list . .Values.models))) 200000 }}
{{- fail (printf "models has %d entries, more than the 200 kB that Kubernetes takes of them: use several releases." (len .Values.models)) }}
{{- end }}
{{- end }}

{{/* Called with (list $ "models" models). */}}
{{- define "pantry.validate.list" -}}
{{- $where := index . 1 }}
{{- $custom := eq (index . 0).Values.storage.mode "custom" }}
{{- $seen := dict }}
{{- range index . 2 }}
{{- if hasKey $seen .name }}
{{- fail (printf "%s lists %q twice: a model has one version at a time, so remove one entry or rename it." $where .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- if kindIs "float64" .version }}
{{- if or (ne (float64 (int64 .version)) .version) (gt .version 9007199254740991.0) }}
{{- fail (printf "the version of model %q was read as the number %v, which may not be what you wrote: put it in quotes." .name .version) }}
{{- end }}
{{- end }}
{{- if and $custom .storageUri }}
{{- fail (printf "model %q has a storageUri, but storage.mode custom syncs nothing: remove it, and let the volume hold the bundle as %s/%s/." .name .name (include "pantry.text" .version)) }}
{{- end }}
{{- if not (or $custom (regexMatch "^((gs|s3)://[^/\\s]+/[^\\s]+|https://[^/\\s@?#]+(/[^\\s?#]*)?|file:///[^\\s]+)$" (.storageUri | default ""))) }}
{{- fail (printf "the storageUri of model %q is %q: write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, https://HOST/FOLDER or file:///DIRECTORY." .name (.storageUri | default "")) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.canary" -}}
{{- $canary := .Values.canary }}
{{- if not $canary.models }}
{{- fail "canary.models is empty: list the versions to try, or set canary.enabled to false." }}
{{- end }}
{{- include "pantry.validate.list" (list . "canary.models" $canary.models) }}
{{- $stable := dict }}
{{- range .Values.models }}{{ $_ := set $stable .name (include "pantry.text" .version) }}{{ end }}
{{- range $canary.models }}
{{- if not (hasKey $stable .name) }}
{{- fail (printf "canary.models tries %q, which models does not list: the stable track could not answer for it. Add it to models first." .name) }}
{{- end }}
{{- if and (eq (get $stable .name) (include "pantry.text" .version)) (not $canary.promote) }}
{{- fail (printf "canary.models tries version %s of %q, which the stable track serves already: name another, or set canary.enabled to false." (include "pantry.text" .version) .name) }}
{{- end }}
{{- end }}
{{- if and (not (kindIs "invalid" $canary.weight)) (not .Values.gateway.enabled) }}
{{- fail (printf "canary.weight is %d percent, but only a Gateway can share requests out by percent: set gateway.enabled, or remove canary.weight and let canary.replicas and replicas share them." (int64 $canary.weight)) }}
{{- end }}
{{- end }}

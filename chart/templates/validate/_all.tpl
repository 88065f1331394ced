{{/*
Values that each are right and together are not. (Types, names and typos are values.schema.json's.)
An off switch silences its section: `--set ingress.enabled=false` over a full values file is no contradiction.
*/}}
{{- define "pantry.validate" -}}
{{- include "pantry.validate.names" . }}
{{- include "pantry.validate.models" . }}
{{- include "pantry.validate.storage" . }}
{{- include "pantry.validate.scale" . }}
{{- include "pantry.validate.placement" . }}
{{- include "pantry.validate.identity" . }}
{{- if .Values.canary.enabled }}{{ include "pantry.validate.canary" . }}{{ end }}
{{- if .Values.ingress.enabled }}{{ include "pantry.validate.ingress" . }}{{ end }}
{{- if .Values.gateway.enabled }}{{ include "pantry.validate.gateway" . }}{{ end }}
{{- if .Values.gke.enabled }}{{ include "pantry.validate.gke" . }}{{ end }}
{{- end }}

{{/* A quantity, such as 24Gi, as bytes. */}}
{{- define "pantry.bytes" -}}
{{- $text := include "pantry.text" . }}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $suffix := regexFind "[A-Za-z]*$" $text }}
{{- mulf (trimSuffix $suffix $text | float64) (get $factors $suffix | default 1 | float64) | int64 }}
{{- end }}

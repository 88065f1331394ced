{{/*
Base of every name. Always ending in the chart's name (unless that is the release's), so that no two releases in a
namespace can claim one object. Cut to 47, with a digest to tell cut names apart: "-sync-" and ten digits still fit into 63.
*/}}
{{- define "pantry.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (eq .Release.Name .Chart.Name)) }}
{{- if gt (len $name) 47 }}
{{- $name = printf "%s-%s" (trunc 38 $name | trimSuffix "-") (sha256sum $name | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "pantry.claim" -}}
{{- .Values.storage.existingClaim | default (include "pantry.fullname" .) }}
{{- end }}

{{- define "pantry.sync.serviceAccount" -}}
{{- .Values.sync.serviceAccount.name | default (printf "%s-sync" (include "pantry.fullname" .)) }}
{{- end }}

{{/* Labels that select; a component's never change. Called with (list $ "server"). */}}
{{- define "pantry.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What a Deployment of servers selects: the Service takes every track, a Deployment owns one. */}}
{{- define "pantry.server.selectorLabels" -}}
{{ include "pantry.selectorLabels" (list . "server") }}
pantry/track: stable
{{- end }}

{{/* Labels of an object's own metadata. Never on a pod: the version would restart it. Called with (list $ "server"). */}}
{{- define "pantry.labels" -}}
{{- $root := index . 0 -}}
{{ include "pantry.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* A value as text: values files give numbers as floats, which would print as 3e+08. */}}
{{- define "pantry.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

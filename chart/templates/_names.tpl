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

{{/* Of a track's own objects. Called with (list $ "stable"). */}}
{{- define "pantry.track.name" -}}
{{- include "pantry.fullname" (index . 0) }}{{ if ne (index . 1) "stable" }}-{{ index . 1 }}{{ end }}
{{- end }}

{{/* Each mode has its own, as a claim's access modes are for ever: a release can change its mode. */}}
{{- define "pantry.claim" -}}
{{- .Values.storage.existingClaim | default (printf "%s%s" (include "pantry.fullname" .) (ternary "-shared" "" (eq .Values.storage.mode "shared"))) }}
{{- end }}

{{- define "pantry.sync.serviceAccount" -}}
{{- .Values.sync.serviceAccount.name | default (printf "%s-sync" (include "pantry.fullname" .)) }}
{{- end }}

{{- define "pantry.tls.secretName" -}}
{{- with .Values.ingress.tls }}
{{- .secretName | default (ternary (printf "%s-tls" (include "pantry.fullname" $)) "" (not (empty .clusterIssuer))) }}
{{- end }}
{{- end }}

{{/* Labels that select; a component's never change. Called with (list $ "server"). */}}
{{- define "pantry.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What a Deployment of servers selects: the Service takes every track, a Deployment owns one. Called with (list $ "stable"). */}}
{{- define "pantry.track.selectorLabels" -}}
{{ include "pantry.selectorLabels" (list (index . 0) "server") }}
pantry/track: {{ index . 1 }}
{{- end }}

{{/* Name, namespace and labels of an object. The labels are never on a pod: the version would restart it. Called with (list $ "server" "name"). */}}
{{- define "pantry.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "pantry.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
  {{- with $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A value as text: values files give numbers as floats, which would print as 3e+08. */}}
{{- define "pantry.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

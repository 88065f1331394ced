{{/* Which models each track serves, and how a change of them gets there. */}}

{{/* swap or rolling. */}}
{{- define "pantry.rollout" -}}
{{- .Values.rollout.model | default (ternary "swap" "rolling" (has .Values.storage.mode (list "disk" "shared"))) }}
{{- end }}

{{- define "pantry.hasJob" -}}
{{- if has .Values.storage.mode (list "disk" "shared") }}yes{{ end }}
{{- end }}

{{- define "pantry.hasCanary" -}}
{{- if and .Values.canary.enabled (not .Values.canary.promote) }}yes{{ end }}
{{- end }}

{{/* Their names, with blanks between: `range splitList " " (include "pantry.tracks" .)`. */}}
{{- define "pantry.tracks" -}}
stable{{ if include "pantry.hasCanary" . }} canary{{ end }}
{{- end }}

{{/* Whether a Gateway shares requests out by percent. Where none was named, pods do, with a Gateway too: a track that is not ready gets nothing then. */}}
{{- define "pantry.hasWeight" -}}
{{- if and .Values.gateway.enabled (include "pantry.hasCanary" .) (not (kindIs "invalid" .Values.canary.weight)) }}yes{{ end }}
{{- end }}

{{/* The models of a track as {"models": […]}: the canary's, and after a promotion the stable's, are `models` with the tried versions in their places. */}}
{{- define "pantry.models" -}}
{{- $root := index . 0 }}
{{- $tried := dict }}
{{- if or (eq (index . 1) "canary") (and $root.Values.canary.enabled $root.Values.canary.promote) }}
{{- range $root.Values.canary.models }}{{ $_ := set $tried .name . }}{{ end }}
{{- end }}
{{- $models := list }}
{{- range $root.Values.models }}{{ $models = append $models (get $tried .name | default .) }}{{ end }}
{{- dict "models" $models | toJson }}
{{- end }}

{{/* models.yaml, the one file that the sync and the server read. Called with (list $ models). */}}
{{- define "pantry.models.yaml" -}}
{{- $root := index . 0 -}}
models:
{{- range index . 1 }}
{{- $version := include "pantry.text" .version }}
- name: {{ .name | quote }}
  version: {{ $version | quote }}
  storageUri: {{ .storageUri | default (printf "file:///mnt/models/%s/%s" .name $version) | quote }}
  {{- with .digest }}
  digest: {{ . | quote }}
  {{- end }}
  load: {{ .load | default "eager" }}
{{- end }}
{{- end }}

{{/* "digits=1 faces=2", for people. Called with (list $ "stable"). */}}
{{- define "pantry.models.list" -}}
{{- $list := list }}
{{- range (include "pantry.models" . | fromJson).models }}{{ $list = append $list (printf "%s=%s" .name (include "pantry.text" .version)) }}{{ end }}
{{- join " " $list }}
{{- end }}

{{/* {"models": ["digits=1,2", …]}: what a request may be answered by. Called with (list $ tracks). */}}
{{- define "pantry.models.versions" -}}
{{- $root := index . 0 }}
{{- $versions := dict }}
{{- range index . 1 }}
{{- range (include "pantry.models" (list $root .) | fromJson).models }}
{{- $_ := set $versions .name (append (get $versions .name | default list) (include "pantry.text" .version) | uniq) }}
{{- end }}
{{- end }}
{{- $list := list }}
{{- range $root.Values.models }}{{ $list = append $list (printf "%s=%s" .name (get $versions .name | join ",")) }}{{ end }}
{{- dict "models" $list | toYaml }}
{{- end }}

{{/* The Secret that says who may ask; empty where nobody is asked, or the sync brings the files. */}}
{{- define "pantry.access.secret" -}}
{{- if ne .Values.access.mode "off" }}{{ .Values.access.secretName }}{{ end }}
{{- end }}

{{/* Files of the Secret, in the server and, so that it may ask, in `helm test`. */}}
{{- define "pantry.access.volume" -}}
- name: access
  secret: {secretName: {{ include "pantry.access.secret" . }}, defaultMode: 0440}
{{- end }}

{{/* What a file of the mode is called on the volume: two releases may share one. Called with (list $ "users"). */}}
{{- define "pantry.access.file" -}}
{{ include "pantry.fullname" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{/* The keys of the mode, with a space between. */}}
{{- define "pantry.access.keys" -}}
{{ get (dict "off" "" "tokens" "tokens" "users" "signing-secret users") .Values.access.mode }}
{{- end }}

{{- define "pantry.access.env" -}}
{{- $keys := include "pantry.access.keys" . }}
{{- if $keys -}}
- {name: PANTRY_ACCESS, value: {{ .Values.access.mode }}}
{{- if not (include "pantry.access.secret" .) }}
- {name: PANTRY_ACCESS_FILES, value: synced}
{{- end }}
{{- range splitList " " $keys }}
- name: PANTRY_{{ snakecase . | upper }}_FILE
  value: {{ if include "pantry.access.secret" $ }}/etc/pantry-access/{{ . }}{{ else }}/mnt/models/.access/{{ include "pantry.access.file" (list $ .) }}{{ end }}
{{- end }}
{{- if eq .Values.access.mode "users" }}
- {name: PANTRY_TOKEN_SECONDS, value: {{ include "pantry.text" .Values.access.tokenSeconds | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* What the sync is to bring, one argument a line. */}}
{{- define "pantry.access.arguments" -}}
{{- $keys := include "pantry.access.keys" . }}
{{- if and $keys (not (include "pantry.access.secret" .)) }}
{{- range $i, $key := splitList " " $keys }}{{ if $i }}
{{ end }}- --access={{ include "pantry.access.file" (list $ $key) }}={{ get $.Values.access.storageUris $key }}
{{- end }}
{{- end }}
{{- end }}

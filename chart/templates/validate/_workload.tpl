{{- define "pantry.validate.storage" -}}
{{- $storage := .Values.storage }}
{{- $mode := $storage.mode }}
{{- if and (eq $mode "shared") (not $storage.storageClassName) (not $storage.existingClaim) }}
{{- fail "storage.mode shared needs a volume that many nodes can mount, which a cluster's default class seldom makes: set storage.storageClassName to one that can do ReadWriteMany (on GKE: standard-rwx, with Filestore), or storage.existingClaim." }}
{{- end }}
{{- if and (eq $mode "custom") (not $storage.custom) }}
{{- fail "storage.mode custom needs storage.custom: the source of a volume that holds published bundles as NAME/VERSION/." }}
{{- end }}
{{- if and (ne $mode "custom") $storage.custom }}
{{- fail (printf "storage.custom is for storage.mode custom, and the mode is %s: change the mode, or remove storage.custom." $mode) }}
{{- end }}
{{- if and (has $mode (list "ephemeral" "custom")) $storage.existingClaim }}
{{- fail (printf "storage.existingClaim is for the modes disk and shared, and the mode is %s: change the mode, or remove it (in mode custom, storage.custom can name a claim)." $mode) }}
{{- end }}
{{- if and (eq $mode "disk") (eq .Values.rollout.model "rolling") }}
{{- fail "rollout.model is rolling, but storage.mode disk has one pod, which would be away meanwhile: set rollout.model to swap." }}
{{- end }}
{{- if and (eq $mode "ephemeral") (eq .Values.rollout.model "swap") }}
{{- fail "rollout.model is swap, but in storage.mode ephemeral only a new pod's init container syncs: set rollout.model to rolling." }}
{{- end }}
{{- end }}

{{- define "pantry.validate.scale" -}}
{{- if and (eq .Values.storage.mode "disk") (gt (int64 .Values.replicas) 1) }}
{{- fail (printf "replicas is %d, but storage.mode disk has one ReadWriteOnce volume, on one node: set replicas to 1, or storage.mode to shared or ephemeral." (int64 .Values.replicas)) }}
{{- end }}
{{- if and (eq (toString .Values.rollout.maxSurge | trimSuffix "%") "0") (eq (toString .Values.rollout.maxUnavailable | trimSuffix "%") "0") }}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0, so that no pod could ever be replaced: set one of them above 0." }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if eq $.Values.storage.mode "disk" }}
{{- fail "autoscaling.enabled is true, but storage.mode disk has one pod: set it to false, or storage.mode to shared or ephemeral." }}
{{- end }}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, above maxReplicas, which is %d: change one of them." (int64 .minReplicas) (int64 .maxReplicas)) }}
{{- end }}
{{- if not (or .cpuPercent .queueMetric .metrics) }}
{{- fail "autoscaling has nothing to go by: set cpuPercent, queueMetric or metrics." }}
{{- end }}
{{- if and .cpuPercent (not (hasKey ($.Values.resources.requests | default dict) "cpu")) }}
{{- fail "autoscaling.cpuPercent is a share of resources.requests.cpu, which is not set: set it, or cpuPercent to 0." }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "pantry.validate.placement" -}}
{{- $gpu := .Values.gpu }}
{{- if and .Values.gke.accelerator (not $gpu.count) }}
{{- fail "gke.accelerator sends the server to GPU nodes, but gpu.count is 0, so that they would refuse it: set gpu.count, or remove gke.accelerator." }}
{{- end }}
{{- if and $gpu.count (hasKey (.Values.resources.limits | default dict) "nvidia.com/gpu") }}
{{- fail "nvidia.com/gpu is set by gpu.count and by resources.limits: keep gpu.count." }}
{{- end }}
{{- if and $gpu.count $gpu.memory $gpu.modelMemory }}
{{- $has := include "pantry.bytes" $gpu.memory | int64 }}
{{- $wants := include "pantry.bytes" $gpu.modelMemory | int64 }}
{{- if gt $wants $has }}
{{- fail (printf "gpu.modelMemory is %s, and a GPU has %s: choose a larger GPU." $gpu.modelMemory $gpu.memory) }}
{{- end }}
{{- if and (gt (mul 2 $wants) $has) (eq (include "pantry.rollout" .) "swap") (eq .Values.server.prefer "availability") }}
{{- fail (printf "a swap holds two generations of the models, 2 x %s, on a GPU of %s: set server.prefer to resources (the old one goes first, and requests wait), or rollout.model to rolling where the storage mode allows it, or choose a larger GPU." $gpu.modelMemory $gpu.memory) }}
{{- end }}
{{- end }}
{{- range $value, $label := include "pantry.gke.nodeLabels" . | fromYaml }}
{{- if and (get $.Values.gke $value) (hasKey $.Values.nodeSelector $label) }}
{{- fail (printf "the node label %s is set by gke.%s and by nodeSelector: keep one." $label $value) }}
{{- end }}
{{- end }}
{{- with .Values.gke }}
{{- if and .autopilot .nodePool }}
{{- fail (printf "gke.nodePool is %q, but Autopilot has no node pools to choose from: use gke.computeClass or gke.accelerator, or set gke.autopilot to false." .nodePool) }}
{{- end }}
{{- if and .autopilot $gpu.count (not .accelerator) }}
{{- fail "gpu.count is set, but Autopilot makes a GPU node only for a kind of GPU: set gke.accelerator, for example to nvidia-l4." }}
{{- end }}
{{- end }}
{{- if and .Values.sync.pack (le (include "pantry.bytes" (get (.Values.sync.resources.limits | default dict) "memory" | default "1Ti") | int64) 536870912) }}
{{- fail "sync.pack loads each pickle to rewrite it, and sync.resources.limits.memory is made for a sync that only streams: set it to three times the largest pickle, or pack with `pantry publish`." }}
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
{{- if and .Values.server.serviceAccount.annotations (ne .Values.storage.mode "custom") }}
{{- fail (printf "server.serviceAccount.annotations would give the server a cloud identity, which it needs in storage.mode custom alone, and the mode is %s: the sync's are sync.serviceAccount.annotations." .Values.storage.mode) }}
{{- end }}
{{- if ne .Values.access.mode "off" }}{{ include "pantry.validate.access" . }}{{ end }}
{{- end }}

{{- define "pantry.validate.access" -}}
{{- $keys := splitList " " (include "pantry.access.keys" .) }}
{{- with .Values.access }}
{{- $words := printf "key%s %s" (ternary "s" "" (eq .mode "users")) (join " and " $keys) }}
{{- if and (not .secretName) (not .storageUris) }}
{{- fail (printf "access.mode is %s, but there is no access.secretName: name a Secret with the %s, or objects of a bucket by access.storageUris." .mode $words) }}
{{- end }}
{{- if and .secretName .storageUris }}
{{- fail "access.secretName and access.storageUris both say who may ask: keep one." }}
{{- end }}
{{- if .storageUris }}
{{- if ne (keys .storageUris | sortAlpha | join " ") (join " " $keys) }}
{{- fail (printf "access.storageUris has %s, but access.mode %s takes the %s." (keys .storageUris | sortAlpha | join ", ") .mode $words) }}
{{- end }}
{{- range $key, $uri := .storageUris }}
{{- if not (regexMatch "^((gs|s3)://[^/\\s]+(/[^/\\s]+)+|https://[^/\\s@?#]+(/[^/\\s?#]+)+|file://(/[^/\\s]+)+)$" $uri) }}
{{- fail (printf "access.storageUris.%s is %q: write gs://BUCKET/OBJECT, s3://BUCKET/OBJECT, https://HOST/FILE or file:///FILE." $key $uri) }}
{{- end }}
{{- end }}
{{- if eq $.Values.storage.mode "custom" }}
{{- fail "access.storageUris wants a sync, and storage.mode custom has none: use access.secretName." }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

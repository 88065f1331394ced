{{/* Where pods run, and what of a node they take. */}}

{{- define "pantry.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.count }}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .Values.gpu.count) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Node labels of GKE by the value that asks for them. */}}
{{- define "pantry.gke.nodeLabels" -}}
nodePool: cloud.google.com/gke-nodepool
machineFamily: cloud.google.com/machine-family
computeClass: cloud.google.com/compute-class
accelerator: cloud.google.com/gke-accelerator
gpuDriverVersion: cloud.google.com/gke-gpu-driver-version
spot: cloud.google.com/gke-spot
{{- end }}

{{- define "pantry.nodeSelector" -}}
{{- $selector := deepCopy .Values.nodeSelector }}
{{- range $value, $label := include "pantry.gke.nodeLabels" . | fromYaml }}
{{- with get $.Values.gke $value }}{{ $_ := set $selector $label (toString .) }}{{ end }}
{{- end }}
{{- with $selector }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* The GPU's is spelt out: GKE adds it to pods that ask for a GPU, and the sync, which has to get to a disk's node, asks for none. */}}
{{- define "pantry.tolerations" -}}
{{- $tolerations := .Values.tolerations }}
{{- if .Values.gpu.count }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- if .Values.gke.spot }}
{{- $tolerations = append $tolerations (dict "key" "cloud.google.com/gke-spot" "operator" "Equal" "value" "true" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* The node of the stable track's pod, as a term of a pod affinity: a ReadWriteOnce volume is on one node only. */}}
{{- define "pantry.besideTheServer" -}}
topologyKey: kubernetes.io/hostname
labelSelector:
  matchLabels: {{- include "pantry.track.selectorLabels" (list . "stable") | nindent 4 }}
{{- end }}

{{/* Servers of one disk stay together, all others apart. Whatever the number of replicas: a change of it must not restart pods. Called with (list $ "stable"). */}}
{{- define "pantry.affinity" -}}
{{- $root := index . 0 }}
{{- $affinity := deepCopy $root.Values.affinity }}
{{- if eq $root.Values.storage.mode "disk" }}
{{- if ne (index . 1) "stable" }}
{{- $podAffinity := $affinity.podAffinity | default dict }}
{{- $required := append ($podAffinity.requiredDuringSchedulingIgnoredDuringExecution | default list) (include "pantry.besideTheServer" $root | fromYaml) }}
{{- $_ := set $affinity "podAffinity" (set $podAffinity "requiredDuringSchedulingIgnoredDuringExecution" $required) }}
{{- end }}
{{- else if not (or $affinity.podAntiAffinity $root.Values.topologySpreadConstraints) }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "pantry.track.selectorLabels" . | fromYaml)) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) }}
{{- end }}
{{- with $affinity }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* preStop and drain run one after the other; what is left is for the processes to end. */}}
{{- define "pantry.drainingSeconds" -}}
{{- add .Values.server.preStopSeconds .Values.server.drainSeconds }}
{{- end }}

{{/* A pod is unready while its models are synced and loaded, and that is progress; the rest is for scheduling and pulling. */}}
{{- define "pantry.progressSeconds" -}}
{{- add (ternary 0 .Values.sync.timeoutSeconds (eq .Values.storage.mode "custom")) .Values.server.loadTimeoutSeconds 300 }}
{{- end }}

{{/* Pods that always run, at least. */}}
{{- define "pantry.minimum" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled | int64 }}
{{- end }}

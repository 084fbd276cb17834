{{/* Names, labels and images, once. */}}

{{- define "drystone.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "drystone.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "drystone.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object; call with a dict of root and component. */}}
{{- define "drystone.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: drystone
{{ include "drystone.selector" . }}
{{- end -}}

{{/* What picks the pods of a component; never changes, a selector is immutable. */}}
{{- define "drystone.selector" -}}
app.kubernetes.io/name: {{ include "drystone.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Service accounts: the operator is told the same names. */}}
{{- define "drystone.account" -}}
{{- printf "%s-%s" (include "drystone.fullname" .root) .component -}}
{{- end -}}

{{- define "drystone.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Namespaces that are looked after, as JSON. */}}
{{- define "drystone.namespaces" -}}
{{- .Values.operator.namespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{/* "true" where templates can ask the cluster: `helm template` cannot. */}}
{{- define "drystone.online" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}true{{- end -}}
{{- end -}}

{{/* "true" where snapshots are defined, and the driver's part of them is wanted. */}}
{{- define "drystone.snapshotter" -}}
{{- $defined := .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" -}}
{{- if or (eq .Values.snapshots.sidecar "Enabled") (and (eq .Values.snapshots.sidecar "Auto") $defined) -}}true{{- end -}}
{{- end -}}

{{/* "true" where the StorageClass shall be the default one: never over another, and never on a guess. */}}
{{- define "drystone.defaultClass" -}}
{{- $wanted := .Values.storageClass.default -}}
{{- if eq $wanted "Always" -}}true
{{- else if and (eq $wanted "Auto") (eq (include "drystone.online" .) "true") -}}
{{- $own := .Values.storageClass.name -}}
{{- $others := dict -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}
{{- $marks := .metadata.annotations | default dict -}}
{{- if and (ne .metadata.name $own) (eq (get $marks "storageclass.kubernetes.io/is-default-class") "true") -}}
{{- $_ := set $others .metadata.name true -}}
{{- end -}}
{{- end -}}
{{- if not $others -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the StorageCluster of these values is elsewhere. */}}
{{- define "drystone.external" -}}
{{- if .Values.cluster.external.endpoints -}}true{{- end -}}
{{- end -}}

{{/* The operator's settings, as variables; their names are those of drystone_operator.settings. */}}
{{- define "drystone.operatorEnv" -}}
- name: DRYSTONE_NAMESPACES
  value: {{ include "drystone.namespaces" . | quote }}
- name: DRYSTONE_IMAGE
  value: {{ include "drystone.image" . | quote }}
- name: DRYSTONE_ETCD_IMAGE
  value: {{ .Values.images.etcd | quote }}
- name: DRYSTONE_PROVISIONER_IMAGE
  value: {{ .Values.images.provisioner | quote }}
- name: DRYSTONE_ATTACHER_IMAGE
  value: {{ .Values.images.attacher | quote }}
- name: DRYSTONE_RESIZER_IMAGE
  value: {{ .Values.images.resizer | quote }}
{{- if eq (include "drystone.snapshotter" .) "true" }}
- name: DRYSTONE_SNAPSHOTTER_IMAGE
  value: {{ .Values.images.snapshotter | quote }}
{{- end }}
- name: DRYSTONE_REGISTRAR_IMAGE
  value: {{ .Values.images.registrar | quote }}
- name: DRYSTONE_LIVENESSPROBE_IMAGE
  value: {{ .Values.images.livenessprobe | quote }}
- name: DRYSTONE_CSI_SERVICE_ACCOUNT
  value: {{ include "drystone.account" (dict "root" . "component" "csi-controller") | quote }}
- name: DRYSTONE_CSI_NODE_SERVICE_ACCOUNT
  value: {{ include "drystone.account" (dict "root" . "component" "csi-node") | quote }}
- name: DRYSTONE_NODE_SERVICE_ACCOUNT
  value: {{ include "drystone.account" (dict "root" . "component" "node") | quote }}
- name: DRYSTONE_TLS
  value: {{ eq .Values.operator.tls "Enabled" | quote }}
- name: DRYSTONE_BEACON_PODS
  value: {{ eq .Values.operator.beaconPods "Enabled" | quote }}
- name: DRYSTONE_FUSE_PODS
  value: {{ eq .Values.operator.fusePods "Enabled" | quote }}
- name: DRYSTONE_RESYNC_S
  value: {{ .Values.operator.resyncSeconds | quote }}
- name: DRYSTONE_HEALTH_LISTEN
  value: "0.0.0.0:8080"
- name: DRYSTONE_LOG_LEVEL
  value: {{ .Values.operator.logLevel | quote }}
{{- end -}}

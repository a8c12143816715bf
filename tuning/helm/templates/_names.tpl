{{- define "ringmq.name" -}}
{{- if contains "ringmq" .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-ringmq" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "ringmq.selector" -}}
app.kubernetes.io/name: ringmq
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ringmq.labels" -}}
{{ include "ringmq.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "keyferry.name" -}}
{{- if eq .Release.Name .Chart.Name }}{{ .Chart.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "keyferry.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keyferry.labels" -}}
{{ include "keyferry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "keyferry.image" -}}
{{- $repository := required "image.repository: where the image is that you built with deploy/container" .Values.image.repository -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* What would start and then fail is refused here. */}}
{{- define "keyferry.checked" -}}
{{- $_ := required "config: keyferry.toml, with at least [stores.…]; docs/configuration.md has the keys" .Values.config -}}
{{- $_ := required "tls.secret: the Secret (kubernetes.io/tls) with the broker's certificate" .Values.tls.secret -}}
{{- $_ := required "clientCa.secret: the Secret with the CAs of client certificates" .Values.clientCa.secret -}}
{{- if not .Values.policies }}{{ fail "policies: without any, every call is denied; begin with deploy/policy/production.cedar" }}{{ end -}}
{{- if eq .Values.state.kind "etcd" }}
{{- if not .Values.state.etcd.endpoints }}{{ fail "state.etcd.endpoints: the members' URLs" }}{{ end -}}
{{- else if gt (int .Values.replicas) 1 }}{{ fail "replicas: more than one need state.kind: etcd, as a file serves one broker" }}
{{- end -}}
{{- end }}

{{- define "respmux.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "respmux.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "respmux.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "respmux.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "respmux.selectorLabels" -}}
app.kubernetes.io/name: {{ include "respmux.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "respmux.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "respmux.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "respmux.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "respmux.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "respmux.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* One job a release, with `respmux` in its name whatever the release is called: the alerts look for that. */}}
{{- define "respmux.jobRelabeling" -}}
- action: replace
  targetLabel: job
  replacement: respmux/{{ .Release.Namespace }}/{{ include "respmux.fullname" . }}
{{- end }}

{{/* The Secret with the upstream's password, empty when there is none. */}}
{{- define "respmux.secretName" -}}
{{- if .Values.upstream.existingSecret }}
{{- .Values.upstream.existingSecret }}
{{- else if .Values.upstream.password }}
{{- printf "%s-upstream" (include "respmux.fullname" .) }}
{{- end }}
{{- end }}

{{/* Where a client that was told to move connects again: this Service, from which the leaving pod is gone by then. */}}
{{- define "respmux.handoffEndpoint" -}}
{{- if .Values.drain.endpoint }}
{{- .Values.drain.endpoint }}
{{- else if eq .Values.kind "Deployment" }}
{{- printf "%s.%s.svc:%d" (include "respmux.fullname" .) .Release.Namespace (int .Values.service.port) }}
{{- end }}
{{- end }}

{{/*
One table of the configuration file. Where `config` has it too, our lines go under its header there, since TOML allows
a table once; else they come at the end.
*/}}
{{- define "respmux.header" -}}
{{- printf `(?m)^[ \t]*\[[ \t]*%s[ \t]*\][ \t]*(#.*)?$` . }}
{{- end }}

{{- define "respmux.upstream" -}}
url = {{ .Values.upstream.url | quote }}
max_connections = {{ .Values.upstream.maxConnections }}
{{- with .Values.upstream.username }}
username = {{ . | quote }}
{{- end }}
{{- if include "respmux.secretName" . }}
password_file = "/var/run/secrets/respmux/{{ ternary .Values.upstream.existingSecretKey "password" (ne .Values.upstream.existingSecret "") }}"
{{- end }}
{{- if .Values.upstream.existingCaSecret }}
tls_ca_file = "/etc/respmux-upstream-ca/ca.crt"
{{- end }}
{{- end }}

{{- define "respmux.drain" -}}
delay = "{{ .Values.drain.delaySeconds }}s"
timeout = "{{ .Values.drain.timeoutSeconds }}s"
{{- with include "respmux.handoffEndpoint" . }}
endpoint = {{ . | quote }}
{{- end }}
{{- end }}

{{- define "respmux.log" -}}
format = "json"
level = {{ .Values.log.level | quote }}
{{- end }}

{{- define "respmux.tls" -}}
{{- if .Values.tls.existingSecret -}}
cert_file = "/etc/respmux-tls/tls.crt"
key_file = "/etc/respmux-tls/tls.key"
client_auth = {{ .Values.tls.clientAuth | quote }}
{{- if ne .Values.tls.clientAuth "no" }}
client_ca_file = "/etc/respmux-tls/ca.crt"
{{- end }}
{{- end }}
{{- end }}

{{/* The configuration file. */}}
{{- define "respmux.config" -}}
{{- $listen := list }}
{{- if not (and .Values.tls.existingSecret .Values.tls.only) }}
{{- $listen = append $listen "0.0.0.0:6380" }}
{{- end }}
{{- if .Values.tls.existingSecret }}
{{- $listen = append $listen "tls:0.0.0.0:6390" }}
{{- end -}}
listen = {{ toJson $listen }}
admin = "0.0.0.0:9380"
{{- with .Values.admin.existingSecret }}
admin_token_file = "/etc/respmux-admin/token"
{{- end }}
workers = {{ .Values.workers }}
{{- $text := .Values.config | trim }}
{{- $rest := "" }}
{{- range $table := list "upstream" "drain" "log" "tls" }}
{{- $ours := include (printf "respmux.%s" $table) $ | trim }}
{{- $header := include "respmux.header" $table }}
{{- if $ours }}
{{- if regexMatch $header $text }}
{{- $text = regexReplaceAll $header $text (printf "[%s]\n%s" $table ($ours | replace "$" "$$")) }}
{{- else }}
{{- $rest = printf "%s\n\n[%s]\n%s" $rest $table $ours }}
{{- end }}
{{- end }}
{{- end }}
{{- with $text }}

{{ . }}
{{- end }}
{{- $rest }}
{{- end }}

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

{{/* The Secret with the upstream's password, empty when there is none. */}}
{{- define "respmux.secretName" -}}
{{- if .Values.upstream.existingSecret }}
{{- .Values.upstream.existingSecret }}
{{- else if .Values.upstream.password }}
{{- printf "%s-upstream" (include "respmux.fullname" .) }}
{{- end }}
{{- end }}

{{/* The configuration file. */}}
{{- define "respmux.config" -}}
listen = ["0.0.0.0:6380"]
admin = "0.0.0.0:9380"
workers = {{ .Values.workers }}

[upstream]
url = {{ .Values.upstream.url | quote }}
max_connections = {{ .Values.upstream.maxConnections }}
{{- with .Values.upstream.username }}
username = {{ . | quote }}
{{- end }}
{{- if include "respmux.secretName" . }}
password_file = "/var/run/secrets/respmux/{{ ternary .Values.upstream.existingSecretKey "password" (ne .Values.upstream.existingSecret "") }}"
{{- end }}

[drain]
delay = "{{ .Values.drain.delaySeconds }}s"
timeout = "{{ .Values.drain.timeoutSeconds }}s"

[log]
format = "json"
level = {{ .Values.log.level | quote }}
{{- with .Values.config }}

{{ . | trim }}
{{- end }}
{{- end }}

{{/*
respmux as a native sidecar, for the charts of applications: one entry of `initContainers`.

  initContainers:
    {{- include "respmux.sidecar" (dict "image" "registry.example/respmux:0.1.0" "upstream" "redis://redis:6379"
        "maxConnections" 8) | nindent 4 }}

It has no readiness probe on purpose: that would decide over the whole pod's readiness.
*/}}
{{- define "respmux.sidecar" -}}
- name: respmux
  image: {{ .image }}
  restartPolicy: Always
  args:
    - run
    - --listen=127.0.0.1:6380
    - --upstream={{ .upstream }}
    - --workers=1
    - --max-upstream-connections={{ default 8 .maxConnections }}
    - --admin=0.0.0.0:9380
    - --drain-timeout=5s
  ports:
    - name: respmux-admin
      containerPort: 9380
  startupProbe:
    httpGet:
      path: /startupz
      port: respmux-admin
    periodSeconds: 1
    failureThreshold: 30
  livenessProbe:
    httpGet:
      path: /livez
      port: respmux-admin
    periodSeconds: 10
  resources:
    requests:
      cpu: 50m
      memory: 32Mi
    limits:
      memory: 128Mi
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    capabilities:
      drop: [ALL]
{{- end }}

{{/*
respmux as a native sidecar (Kubernetes 1.29): one entry of a pod's `initContainers`, the first, so that other init
containers have their Redis. The application then connects to redis://127.0.0.1:6380.

  initContainers:
    {{- include "respmux.sidecar" (dict "image" "registry.example/respmux:0.1.0" "upstream" "redis://redis.data:6379"
        "passwordSecret" "respmux-auth") | nindent 4 }}
  volumes:
    {{- include "respmux.sidecarVolumes" (dict "passwordSecret" "respmux-auth") | nindent 4 }}

image and upstream must be given. Also: maxConnections (8; each worker needs 6), workers (1), passwordSecret (a Secret with
the key `password`), pullPolicy, args (further arguments, a list), env (further variables, a list), resources.

It has no readiness probe on purpose: that would decide over the whole pod's readiness. deploy/check.sh sees to it that
this is the same container as that of deploy/kustomize/components/sidecar.
*/}}
{{- define "respmux.sidecar" -}}
- name: respmux
  image: {{ required "respmux.sidecar needs an image" .image }}
  {{- with .pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  restartPolicy: Always
  args:
    - run
    - --listen=127.0.0.1:6380
    - --upstream={{ required "respmux.sidecar needs an upstream" .upstream }}
    - --workers={{ default 1 .workers }}
    - --max-upstream-connections={{ default 8 .maxConnections }}
    - --admin=0.0.0.0:9380
    - --drain-timeout=5s
    {{- with .args }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .passwordSecret .env }}
  env:
    {{- if .passwordSecret }}
    - name: RESPMUX_UPSTREAM_PASSWORD_FILE
      value: /var/run/secrets/respmux/password
    {{- end }}
    {{- with .env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
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
    {{- if .resources }}
    {{- toYaml .resources | nindent 4 }}
    {{- else }}
    requests:
      cpu: 50m
      memory: 32Mi
    limits:
      memory: 128Mi
    {{- end }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  {{- if .passwordSecret }}
  volumeMounts:
    - name: respmux-auth
      mountPath: /var/run/secrets/respmux
      readOnly: true
  {{- end }}
{{- end }}

{{- define "respmux.sidecarVolumes" -}}
{{- if .passwordSecret -}}
- name: respmux-auth
  secret:
    secretName: {{ .passwordSecret }}
{{- end }}
{{- end }}

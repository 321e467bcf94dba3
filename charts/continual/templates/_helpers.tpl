{{/* Names, labels, images: every template takes them from here. */}}

{{- define "continual.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "continual.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "continual.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "continual.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects the pods of one component: (list $ "redis"). Immutable in a Deployment, so never a version. */}}
{{- define "continual.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "continual.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Of pods: nothing that changes with the chart's version, so that a new chart restarts only what it changes. */}}
{{- define "continual.podLabels" -}}
{{ include "continual.selector" . }}
app.kubernetes.io/part-of: continual
{{- end }}

{{- define "continual.labels" -}}
{{- $root := index . 0 -}}
{{ include "continual.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: continual
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* (list $ "operator") → the image's reference; a tag that is a digest pins it. */}}
{{- define "continual.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- $tag := default $root.Chart.AppVersion $image.tag -}}
{{- $repository := $image.repository -}}
{{- with $root.Values.imageRegistry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $image.repository }}{{ end -}}
{{- printf "%s%s%s" $repository (ternary "@" ":" (hasPrefix "sha256:" $tag)) $tag -}}
{{- end }}

{{/* Namespaces whose models are served, as a JSON list: {{ include … | fromJsonArray }}. */}}
{{- define "continual.namespaces" -}}
{{- if .Values.modelNamespaces -}}
{{- .Values.modelNamespaces | uniq | toJson -}}
{{- else -}}
{{- list .Release.Namespace | toJson -}}
{{- end -}}
{{- end }}

{{- define "continual.installation" -}}
{{- default (printf "%s/%s" .Release.Namespace (include "continual.fullname" .)) .Values.installation -}}
{{- end }}

{{/* Pods and containers that the restricted profile admits. */}}
{{- define "continual.podSecurity" -}}
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "continual.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: {{ not .Values.development }}
  capabilities:
    drop: [ALL]
{{- end }}

{{/* (list $ "continual_operator") → how a process of ours is started; with development it starts again when its code changes. */}}
{{- define "continual.command" -}}
{{- $watched := ternary (list "python" "-m" "continual_clients.reload") (list "python" "-m") (index . 0).Values.development -}}
{{- append $watched (index . 1) | toJson -}}
{{- end }}

{{/* Where a pod may run: (dict of nodeSelector, tolerations, affinity, priorityClassName). */}}
{{- define "continual.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* (list $ "gateway") → replicas on different nodes where there are several. */}}
{{- define "continual.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "continual.selector" . | nindent 8 }}
{{- end }}

{{/* Connections ---------------------------------------------------------------------------------------------------------- */}}

{{- define "continual.redis.url" -}}
{{- if eq .Values.redis.mode "embedded" -}}
redis://{{ include "continual.fullname" . }}-redis.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{- required "redis.external.url is empty; with redis.mode=external set it, e.g. redis://redis.example.svc:6379/0" .Values.redis.external.url -}}
{{- end -}}
{{- end }}

{{- define "continual.store.endpoint" -}}
{{- if eq .Values.objectStore.mode "embedded" -}}
http://{{ include "continual.fullname" . }}-minio.{{ .Release.Namespace }}.svc:9000
{{- else -}}
{{- required "objectStore.external.endpoint is empty; with objectStore.mode=external set it, e.g. https://s3.example.com" .Values.objectStore.external.endpoint -}}
{{- end -}}
{{- end }}

{{- define "continual.store.url" -}}
s3://{{ .Values.objectStore.bucket }}?endpoint={{ include "continual.store.endpoint" . }}&region={{ .Values.objectStore.region }}
{{- end }}

{{/* (list $ "trainer") → the Redis user's name; empty for an external Redis without users. */}}
{{- define "continual.redis.username" -}}
{{- $root := index . 0 -}}
{{- $user := index $root.Values.redis.users (index . 1) -}}
{{- if $user.username }}{{ $user.username }}{{ else if eq $root.Values.redis.mode "embedded" }}{{ index . 1 }}{{ end -}}
{{- end }}

{{/* (list $ "trainer") → the Secret with its password; empty when an external Redis takes none. */}}
{{- define "continual.redis.secret" -}}
{{- $root := index . 0 -}}
{{- $user := index $root.Values.redis.users (index . 1) -}}
{{- if $user.existingSecret -}}
{{- $user.existingSecret -}}
{{- else if or $user.password (eq $root.Values.redis.mode "embedded") -}}
{{- include "continual.fullname" $root }}-redis-{{ index . 1 -}}
{{- end -}}
{{- end }}

{{- define "continual.redis.aclSecret" -}}
{{- default (printf "%s-redis-acl" (include "continual.fullname" .)) .Values.redis.embedded.existingAclSecret -}}
{{- end }}

{{/* (list $ "trainer") → the Secret with its key pair. */}}
{{- define "continual.store.secret" -}}
{{- $root := index . 0 -}}
{{- $user := index $root.Values.objectStore.users (index . 1) -}}
{{- if $user.existingSecret -}}
{{- $user.existingSecret -}}
{{- else if or (eq $root.Values.objectStore.mode "embedded") (and $user.accessKey $user.secretKey) -}}
{{- include "continual.fullname" $root }}-store-{{ index . 1 -}}
{{- else -}}
{{- fail (printf "objectStore.users.%s has no key pair; with objectStore.mode=external set existingSecret, or accessKey and secretKey" (index . 1)) -}}
{{- end -}}
{{- end }}

{{- define "continual.store.rootSecret" -}}
{{- default (printf "%s-minio-root" (include "continual.fullname" .)) .Values.objectStore.embedded.existingRootSecret -}}
{{- end }}

{{- define "continual.gateway.secret" -}}
{{- default (printf "%s-gateway" (include "continual.fullname" .)) .Values.gateway.existingSecret -}}
{{- end }}

{{/* (list $ "operator") → environment by which one of our own pods finds Redis and the store. */}}
{{- define "continual.connections.env" -}}
{{- $root := index . 0 -}}
- name: CONTINUAL_REDIS_URL
  value: {{ include "continual.redis.url" $root | quote }}
{{- with include "continual.redis.username" . }}
- name: CONTINUAL_REDIS_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- if include "continual.redis.secret" . }}
- name: CONTINUAL_REDIS_PASSWORD_FILE
  value: /etc/continual/redis/password
{{- end }}
- name: CONTINUAL_STORE_URL
  value: {{ include "continual.store.url" $root | quote }}
- name: CONTINUAL_STORE_CREDENTIALS_FILE
  value: /etc/continual/store/credentials
{{- end }}

{{- define "continual.connections.mounts" -}}
{{- if include "continual.redis.secret" . }}
- name: redis
  mountPath: /etc/continual/redis
  readOnly: true
{{- end }}
- name: store
  mountPath: /etc/continual/store
  readOnly: true
{{- end }}

{{- define "continual.connections.volumes" -}}
{{- with include "continual.redis.secret" . }}
- name: redis
  secret:
    secretName: {{ . }}
    items: [{key: password, path: password}]
    defaultMode: 0440
{{- end }}
- name: store
  secret:
    secretName: {{ include "continual.store.secret" . }}
    items: [{key: credentials, path: credentials}]
    defaultMode: 0440
{{- end }}

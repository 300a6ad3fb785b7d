{{/* The label of all objects, by which they are selected. */}}
{{- define "redisproxy.selector" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "redisproxy.labels" -}}
{{ include "redisproxy.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "redisproxy.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The name of the status endpoint's Service. */}}
{{- define "redisproxy.status" -}}
{{ .Release.Name }}-status
{{- end }}

{{/* Not empty if the proxy listens for IPv6 as well. Fails if the API would refuse the Service. */}}
{{- define "redisproxy.ipv6" -}}
{{- $dual := hasSuffix "DualStack" .Values.service.ipFamilyPolicy }}
{{- if and (not $dual) (gt (len .Values.service.ipFamilies) 1) }}
{{- fail "service.ipFamilies has two: service.ipFamilyPolicy has to be PreferDualStack or RequireDualStack" }}
{{- end }}
{{- if or $dual (has "IPv6" .Values.service.ipFamilies) }}yes{{ end }}
{{- end }}

{{/* Fails if .Values.settings has a variable that another value sets. */}}
{{- define "redisproxy.settings" -}}
{{- range $name := list "NS_PREFIX" "REDIS_SECRET" "REDISPROXY_PROCESSES" "REDISPROXY_MASTER_NAMESPACE" "REDISPROXY_MASTER_SECRET" "REDISPROXY_STATUS" "REDISPROXY_STATUS_TOKEN_FILE" "REDISPROXY_REDIS_CA" "REDISPROXY_DRAIN_DELAY" "REDISPROXY_DRAIN_SECONDS" }}
{{- if hasKey $.Values.settings $name }}
{{- fail (printf "settings.%s: it has a value of its own in values.yaml, or follows from others" $name) }}
{{- end }}
{{- end }}
{{- $settings := dict "NS_PREFIX" .Values.nsPrefix "REDISPROXY_PROCESSES" .Values.processes "REDISPROXY_STATUS" "tcp:9180:interface=0.0.0.0" "REDISPROXY_LOG_FORMAT" "json" "REDISPROXY_DRAIN_DELAY" .Values.drain.delay "REDISPROXY_DRAIN_SECONDS" .Values.drain.seconds }}
{{- if ne .Values.redisSecret "redis-secret-master" }}{{ $_ := set $settings "REDIS_SECRET" .Values.redisSecret }}{{ end }}
{{- if ne .Values.master.namespace "kube-system" }}{{ $_ := set $settings "REDISPROXY_MASTER_NAMESPACE" .Values.master.namespace }}{{ end }}
{{- if ne .Values.master.secret "redis-secret-master" }}{{ $_ := set $settings "REDISPROXY_MASTER_SECRET" .Values.master.secret }}{{ end }}
{{- if .Values.monitoring.enabled }}{{ $_ := set $settings "REDISPROXY_STATUS_TOKEN_FILE" "/etc/redisproxy/status/token" }}{{ end }}
{{- if .Values.redisCA.configMap }}{{ $_ := set $settings "REDISPROXY_REDIS_CA" "/etc/redisproxy/redis-ca/ca.crt" }}{{ end }}
{{- $tls := "privateKey=/etc/redisproxy/tls/tls.key:certKey=/etc/redisproxy/tls/tls.crt" }}
{{- if include "redisproxy.ipv6" . }}
{{- $_ := set $settings "REDISPROXY_STATUS" `tcp6:9180:interface=\:\:` }}
{{- $_ := set $settings "REDISPROXY_LISTEN" (ternary (printf `tcp6:6379 ssl:6380:interface=\:\::%s` $tls) "tcp6:6379" (ne .Values.tls.secret "")) }}
{{- else if .Values.tls.secret }}{{ $_ := set $settings "REDISPROXY_LISTEN" (printf "tcp:6379 ssl:6380:%s" $tls) }}{{ end }}
{{- if not .Values.rbac.allNamespaces }}{{ $_ := set $settings "REDISPROXY_WATCH" "no" }}{{ $_ := set $settings "REDISPROXY_REFRESH" "60" }}{{ end }}
{{- range $name, $value := merge (deepCopy .Values.settings) $settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/*
Which ports the processes connect to, as far as the values tell it. A NetworkPolicy knows addresses and ports only, and
sees them after a Service has translated them: what is behind a Service of the cluster is networkPolicy.gatewayTo's.
*/}}

{{/* The port of a scheme without one; 0 when nobody knows. */}}
{{- define "agentplane.schemePort" -}}
{{- get (dict "http" 80 "https" 443 "redis" 6379 "rediss" 6379 "sentinel" 26379 "socks5" 1080 "socks5h" 1080) (lower .) | default 0 -}}
{{- end -}}

{{/*
Ports of the URLs in a text (several: separated by commas, semicolons or blanks), in JSON: {"ports": […]}. Takes: text,
bare (whether host:port without a scheme counts, too). Whatever is no URL is passed over: an error would quote a password.
*/}}
{{- define "agentplane.portsOf" -}}
{{- $url := "^([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?(?:\\[[^\\]]*\\]|[^:/?#\\[\\]@]+)(?::([0-9]+))?(?:[/?#].*)?$" -}}
{{- $address := "^(?:\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+):([0-9]+)$" -}}
{{- $ports := list -}}
{{- range regexSplit "[,;\\s]+" (toString .text) -1 -}}
{{- $port := "0" -}}
{{- if regexMatch $url . -}}
{{- $port = regexReplaceAll $url . "${2}" | default (include "agentplane.schemePort" (regexReplaceAll $url . "${1}")) -}}
{{- else if and $.bare (regexMatch $address .) -}}
{{- $port = regexReplaceAll $address . "${1}" -}}
{{- end -}}
{{- if and (gt (int $port) 0) (lt (int $port) 65536) }}{{ $ports = append $ports (int $port) }}{{ end -}}
{{- end -}}
{{- toJson (dict "ports" $ports) -}}
{{- end -}}

{{/*
Every port that the processes connect to beyond their own Redis and names, in JSON: {"ports": […]}. Read are the URLs of
the values and of all variables whose value is in the values: commonEnv, extraEnv, config.settings, proxies.
*/}}
{{- define "agentplane.outboundPorts" -}}
{{- $ports := list 443 -}}
{{- range .Values.networkPolicy.apiServerPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range .Values.networkPolicy.extraPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- range $values := list .Values.ingress .Values.gateway .Values.istioGateway -}}
{{- if and $values.enabled $values.hostname -}}
{{- $given := regexFind ":[0-9]+$" $values.hostname | trimPrefix ":" | default (ternary "443" "80" $values.tlsEnabled) -}}
{{- $ports = append $ports (int $given) -}}
{{- end -}}
{{- end -}}
{{- $variables := concat (include "agentplane.settings" . | fromYamlArray) (.Values.commonEnv | default list) -}}
{{- range $component := list "listener" "operator" "beat" "watcher" "flower" -}}
{{- $variables = concat $variables ((get $.Values $component).deployment.extraEnv | default list) -}}
{{- end -}}
{{- $variables = append $variables (dict "name" "SENTRY_DSN" "value" .Values.config.sentryDsn) -}}
{{- range $variables -}}
{{- $own := and (eq .name "AGENTPLANE_REDIS_URL") (not $.Values.redis.external.enabled) -}}
{{- if and .value (not $own) (ne (upper .name) "NO_PROXY") -}}
{{- $bare := regexMatch "(?i)(URL|URI|DSN|ADDRESS|ADDR|ENDPOINT|HOST|HOSTNAME|PROXY|SERVER)S?$" .name -}}
{{- $ports = concat $ports (include "agentplane.portsOf" (dict "text" .value "bare" $bare) | fromJson).ports -}}
{{- end -}}
{{- end -}}
{{- if .Values.redis.external.enabled -}}
{{- /* A URL in a Secret of somebody else is not read, and neither does it say where the master of Sentinels is. */ -}}
{{- $sentinels := eq (include "agentplane.sentinels" .) "true" -}}
{{- $addresses := (include "agentplane.externalRedis" . | fromJson).addresses | default (list (ternary "none:26379" "none:6379" $sentinels)) -}}
{{- range $addresses }}{{ $ports = append $ports (splitList ":" . | last | int) }}{{ end -}}
{{- if $sentinels }}{{ $ports = append $ports 6379 }}{{ end -}}
{{- end -}}
{{- $whole := list -}}
{{- range $ports }}{{ $whole = append $whole (int .) }}{{ end -}}
{{- toJson (dict "ports" ($whole | uniq)) -}}
{{- end -}}

{{/* Name of the NetworkPolicy of the processes, which they are told, so that they can say what may forbid a connection. */}}
{{- define "agentplane.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled }}{{ include "agentplane.fullname" . }}-processes{{ end -}}
{{- end -}}

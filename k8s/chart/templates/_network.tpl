{{/*
The ports that the processes connect to, as far as the values name them. A NetworkPolicy sees only addresses and ports,
after a Service has translated them. So pods behind a Service of the cluster are covered by networkPolicy.gatewayTo.
*/}}

{{/* The default port of a URL scheme; 0 for an unknown scheme. */}}
{{- define "agentplane.schemePort" -}}
{{- get (dict "http" 80 "https" 443 "redis" 6379 "rediss" 6379 "sentinel" 26379 "socks5" 1080 "socks5h" 1080) (lower .) | default 0 -}}
{{- end -}}

{{/*
Ports of the URLs in a text (several URLs: separated by commas, semicolons or blanks), in JSON: {"ports": […]}. Takes:
text, bare (whether host:port without a scheme counts too). Other text is skipped: an error message would quote a password.
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
Every port that the processes connect to, except DNS and the chart's own Redis, in JSON: {"ports": […]}. Sources are the
URLs in the values and in all variables whose value is in the values: commonEnv, extraEnv, config.settings, proxies.
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
{{- /* A URL in an existing Secret is not read. A Sentinel URL does not name the port of the master: 6379 is assumed. */ -}}
{{- $sentinels := eq (include "agentplane.sentinels" .) "true" -}}
{{- $addresses := (include "agentplane.externalRedis" . | fromJson).addresses | default (list (ternary "none:26379" "none:6379" $sentinels)) -}}
{{- range $addresses }}{{ $ports = append $ports (splitList ":" . | last | int) }}{{ end -}}
{{- if $sentinels }}{{ $ports = append $ports 6379 }}{{ end -}}
{{- end -}}
{{- $whole := list -}}
{{- range $ports }}{{ $whole = append $whole (int .) }}{{ end -}}
{{- toJson (dict "ports" ($whole | uniq)) -}}
{{- end -}}

{{/* Name of the processes' NetworkPolicy. It is also a setting: messages about failed connections name the policy. */}}
{{- define "agentplane.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled }}{{ include "agentplane.fullname" . }}-processes{{ end -}}
{{- end -}}

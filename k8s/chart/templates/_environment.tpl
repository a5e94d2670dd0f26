{{/*
The settings as environment variables. They are the same for every process, because each process records the configuration
that it runs with.
*/}}

{{- define "agentplane.settings" -}}
{{- $config := .Values.config -}}
{{- $secret := include "agentplane.secret" . -}}
{{- $templates := .Values.operator.templates | default dict -}}
- name: AGENTPLANE_LISTENER_ENABLED
  value: {{ .Values.listener.enabled | quote }}
- name: AGENTPLANE_OPERATOR_ENABLED
  value: {{ .Values.operator.enabled | quote }}
- name: AGENTPLANE_PREFIX
  value: {{ include "agentplane.prefix" . | quote }}
- name: AGENTPLANE_REDIS_URL
{{- if .Values.redis.external.enabled }}
  valueFrom:
    secretKeyRef:
      name: {{ include "agentplane.redisSecret" . }}
      key: {{ .Values.redis.external.connectionUrlSecretKey }}
{{- with .Values.redis.external.sentinel.master }}
- name: AGENTPLANE_REDIS_SENTINEL_MASTER
  value: {{ . | quote }}
{{- end }}
{{- with .Values.redis.external.sentinel.username }}
- name: AGENTPLANE_REDIS_SENTINEL_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- with include "agentplane.sentinelPassword" . }}
- name: AGENTPLANE_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "agentplane.redisSecret" $ }}
      key: {{ . }}
{{- end }}
{{- else }}
  value: {{ printf "redis://%s/0" (include "agentplane.redisAddress" .) | quote }}
{{- end }}
- name: AGENTPLANE_LANGSMITH_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $config.langsmithApiKeySecretKey }}
      {{- if not .Values.listener.enabled }}
      optional: true
      {{- end }}
- name: AGENTPLANE_DIGEST_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $config.digestKeySecretKey }}
      optional: true
- name: AGENTPLANE_SENTRY_DSN
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $config.sentryDsnSecretKey }}
      optional: true
{{- with $config.langsmithWorkspaceId }}
- name: AGENTPLANE_WORKSPACE_ID
  value: {{ . | quote }}
{{- end }}
{{- with $config.langgraphListenerId }}
- name: AGENTPLANE_LISTENER_ID
  value: {{ . | quote }}
{{- end }}
{{- with $config.region }}
- name: AGENTPLANE_REGION
  value: {{ . | quote }}
{{- end }}
{{- with $config.hostBackendUrl }}
- name: AGENTPLANE_HOST_BACKEND_URL
  value: {{ . | quote }}
{{- end }}
{{- with $config.smithBackendUrl }}
- name: AGENTPLANE_SMITH_BACKEND_URL
  value: {{ . | quote }}
{{- end }}
- name: AGENTPLANE_WATCH_NAMESPACES
  value: {{ include "agentplane.watched" . | quote }}
- name: AGENTPLANE_HEALTH_CHECK_ENABLED
  value: {{ $config.enableLGPDeploymentHealthCheck | quote }}
- name: AGENTPLANE_INGRESS_ENABLED
  value: {{ .Values.ingress.enabled | quote }}
- name: AGENTPLANE_GATEWAY_ENABLED
  value: {{ .Values.gateway.enabled | quote }}
- name: AGENTPLANE_ISTIO_GATEWAY_ENABLED
  value: {{ .Values.istioGateway.enabled | quote }}
{{- range $variable, $values := dict "INGRESS" .Values.ingress "GATEWAY" .Values.gateway "ISTIO_GATEWAY" .Values.istioGateway }}
{{- if $values.enabled }}
- name: AGENTPLANE_{{ $variable }}_TLS_ENABLED
  value: {{ $values.tlsEnabled | quote }}
{{- range $name, $value := dict "HOSTNAME" $values.hostname "BASE_PATH" $values.basePath "NAME" $values.name "NAMESPACE" $values.namespace "CLASS" $values.ingressClassName }}
{{- with $value }}
- name: AGENTPLANE_{{ $variable }}_{{ $name }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
- name: AGENTPLANE_KEDA_ENABLED
  value: {{ .Values.operator.kedaEnabled | quote }}
- name: AGENTPLANE_MANAGED_SERVICE_ACCOUNTS
  value: {{ include "agentplane.managed" (dict "root" . "kind" "serviceAccounts") | quote }}
- name: AGENTPLANE_MANAGED_SECRET_PROVIDER_CLASSES
  value: {{ include "agentplane.managed" (dict "root" . "kind" "secretProviderClasses") | quote }}
- name: AGENTPLANE_POD_DISRUPTION_BUDGETS
  value: {{ include "agentplane.budgets" . | quote }}
- name: AGENTPLANE_CLUSTER_DOMAIN
  value: {{ .Values.clusterDomain | quote }}
{{- with include "agentplane.networkPolicy" . }}
- name: AGENTPLANE_NETWORK_POLICY
  value: {{ . | quote }}
{{- end }}
{{- range $name := list "deployment" "service" "db" "redis" }}
{{- with get $templates $name }}
- name: AGENTPLANE_TEMPLATE_{{ upper $name }}
  value: /etc/agentplane/templates/{{ $name }}.yaml
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if or .configMapName .secretName }}
- name: SSL_CERT_FILE
  value: /etc/agentplane/ca/ca.crt
{{- end }}
{{- end }}
{{- with .Values.proxy }}
{{- if .httpsProxy }}
- name: HTTPS_PROXY
  value: {{ .httpsProxy | quote }}
{{- end }}
{{- if .httpProxy }}
- name: HTTP_PROXY
  value: {{ .httpProxy | quote }}
{{- end }}
{{- if or .httpsProxy .httpProxy }}
- name: NO_PROXY
  value: {{ list .noProxy "localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),kubernetes.default.svc,.svc" (printf ".%s" $.Values.clusterDomain) | compact | join "," | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $config.settings }}
- name: AGENTPLANE_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/*
The whole environment of a container. Takes: root, component, own (a list of variables of the process),
extra (the values' extraEnv). A variable that is set twice is refused, because Kubernetes would silently use the last one.
*/}}
{{- define "agentplane.environment" -}}
{{- $settings := list -}}
{{- if ne .component "redis" -}}{{- $settings = include "agentplane.settings" .root | fromYamlArray -}}{{- end -}}
{{- $all := concat (.root.Values.commonEnv | default list) $settings (.own | default list) (.extra | default list) -}}
{{- $seen := dict -}}
{{- range $all -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "\n\nthe environment of %s has %s twice: remove it from commonEnv, config.settings or %s...extraEnv (the chart sets most AGENTPLANE_ variables from its own values)" $.component .name $.component) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- with $all -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

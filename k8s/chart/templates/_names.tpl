{{/*
Names, labels and selectors. Names and selectors are the same as in the langgraph-dataplane chart of the hybrid model.
Neither can change once a Deployment exists, and monitoring, NetworkPolicies and people's habits depend on them.
*/}}

{{- define "agentplane.fullname" -}}
{{- $name := default "langgraph-dataplane" .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "agentplane.namespace" -}}
{{- .Values.namespace | default .Release.Namespace -}}
{{- end -}}

{{/* Name of the objects of a component. Takes: root, component (the key of its values). */}}
{{- define "agentplane.name" -}}
{{- printf "%s-%s" (include "agentplane.fullname" .root) (get .root.Values .component).name -}}
{{- end -}}

{{/*
Selector of the pods of a component. Where the Deployment or StatefulSet already exists, its own selector is used, because
a selector cannot be changed (older versions of the langgraph-dataplane chart leave out the name). Takes: root, component.
*/}}
{{- define "agentplane.selector" -}}
{{- $kind := ternary "StatefulSet" "Deployment" (eq .component "redis") -}}
{{- $live := lookup "apps/v1" $kind (include "agentplane.namespace" .root) (include "agentplane.name" .) | default dict -}}
{{- $ours := dict
  "app.kubernetes.io/name" (.root.Values.nameOverride | default "langgraph-dataplane")
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/component" (include "agentplane.name" .) -}}
{{- dig "spec" "selector" "matchLabels" $ours $live | toYaml -}}
{{- end -}}

{{/* Labels of the pods of a component. The labels of its selector win. Takes what agentplane.labels takes. */}}
{{- define "agentplane.podLabels" -}}
{{- merge (include "agentplane.selector" . | fromYaml) (include "agentplane.labels" . | fromYaml) | toYaml -}}
{{- end -}}

{{/* Labels of an object. Takes: root, component (optional), labels (optional; the chart's own labels win). */}}
{{- define "agentplane.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" -}}
{{- $ours := dict
  "helm.sh/chart" $chart
  "app.kubernetes.io/name" .root.Chart.Name
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- if .component -}}
{{- $_ := set $ours "app.kubernetes.io/component" (include "agentplane.name" .) -}}
{{- end -}}
{{- merge $ours (.labels | default dict) (.root.Values.commonLabels | default dict) | toYaml -}}
{{- end -}}

{{/*
Metadata of an object. Takes: root, and any of component, name, namespace, labels, annotations.
*/}}
{{- define "agentplane.metadata" -}}
name: {{ if .name }}{{ .name }}{{ else }}{{ include "agentplane.name" . }}{{ end }}
namespace: {{ .namespace | default (include "agentplane.namespace" .root) }}
labels:
  {{- include "agentplane.labels" . | nindent 2 }}
{{- with merge dict (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name of the ServiceAccount of a component. Takes: root, component. */}}
{{- define "agentplane.account" -}}
{{- $account := (get .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (include "agentplane.name" .) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the LangSmith API key. */}}
{{- define "agentplane.secret" -}}
{{- .Values.config.existingSecretName | default (printf "%s-secrets" (include "agentplane.fullname" .)) -}}
{{- end -}}

{{/* Name of the Secret with the URL of an external Redis. */}}
{{- define "agentplane.redisSecret" -}}
{{- .Values.redis.external.existingSecretName | default (printf "%s-redis" (include "agentplane.fullname" .)) -}}
{{- end -}}

{{/* Key of the Redis Secret that has the Sentinels' own password; empty when they have none. */}}
{{- define "agentplane.sentinelPassword" -}}
{{- $external := .Values.redis.external -}}
{{- if $external.existingSecretName }}{{ $external.sentinel.passwordSecretKey }}{{ else if $external.sentinel.password }}sentinel_password{{ end -}}
{{- end -}}

{{/* Whether the external Redis is found through Sentinels: true or empty. */}}
{{- define "agentplane.sentinels" -}}
{{- $external := .Values.redis.external -}}
{{- if and $external.enabled (or $external.sentinel.master (hasPrefix "sentinel://" ($external.connectionUrl | default ""))) -}}true{{- end -}}
{{- end -}}

{{/* Pattern of one Redis address. Any other text is never parsed, because the error message would quote its password. */}}
{{- define "agentplane.redisPattern" -}}
^[a-z]+://(([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[0-9]*)?([?][^#]*)?$
{{- end -}}

{{/* Pattern of a port. */}}
{{- define "agentplane.portPattern" -}}
([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])
{{- end -}}

{{/*
The external Redis, as far as the values describe it, in JSON: addresses (host:port of Redis, or of the Sentinels), user
and password (as in a URL), database, tls. A URL in redis.external.existingSecretName is not read.
*/}}
{{- define "agentplane.externalRedis" -}}
{{- $external := .Values.redis.external -}}
{{- $sentinels := eq (include "agentplane.sentinels" .) "true" -}}
{{- $port := ternary "26379" "6379" $sentinels -}}
{{- $found := dict "addresses" list "user" "" "password" "" "database" "0" "tls" $external.tls -}}
{{- $given := $external.connectionUrl | default "" -}}
{{- range compact (ternary (splitList ";" $given) (list $given) $sentinels) -}}
{{- if regexMatch (include "agentplane.redisPattern" $) (trim .) -}}
{{- $url := urlParse (trim .) -}}
{{- $host := ternary $url.host (printf "%s:%s" $url.host $port) (regexMatch ":[0-9]+$" $url.host) -}}
{{- $_ := set $found "addresses" (append $found.addresses $host) -}}
{{- with $url.userinfo -}}
{{- $_ := set $found "user" (splitList ":" . | first) -}}
{{- $_ := set $found "password" (splitList ":" . | rest | join ":") -}}
{{- end -}}
{{- with regexFind "[0-9]+" $url.path }}{{ $_ := set $found "database" . }}{{ end -}}
{{- if or (eq $url.scheme "rediss") (and $sentinels (contains "ssl_" $url.query)) }}{{ $_ := set $found "tls" true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $external.address }}{{ $_ := set $found "addresses" (include "agentplane.list" . | splitList ",") }}{{ end -}}
{{- with $external.username }}{{ $_ := set $found "user" . }}{{ end -}}
{{- with $external.databaseIndex }}{{ $_ := set $found "database" (toString .) }}{{ end -}}
{{- toJson $found -}}
{{- end -}}

{{/* host:port of the chart's own Redis. */}}
{{- define "agentplane.redisAddress" -}}
{{- $name := include "agentplane.name" (dict "root" . "component" "redis") -}}
{{- printf "%s.%s.svc.%s:%d" $name (include "agentplane.namespace" .) .Values.clusterDomain (int .Values.redis.service.port) -}}
{{- end -}}

{{/* The watched namespaces, as a comma-separated list. */}}
{{- define "agentplane.watched" -}}
{{- $given := .Values.config.watchNamespaces -}}
{{- if not .Values.listener.enabled -}}
{{- $given = .Values.operator.watchNamespaces | default $given -}}
{{- end -}}
{{- include "agentplane.list" ($given | default (include "agentplane.namespace" .)) -}}
{{- end -}}

{{/* Namespace of the shared Ingress, if it is not the namespace of the Agent Servers; else empty. */}}
{{- define "agentplane.ingressElsewhere" -}}
{{- if and .Values.ingress.enabled .Values.ingress.namespace (ne .Values.ingress.namespace (include "agentplane.watched" .)) -}}
{{- .Values.ingress.namespace -}}
{{- end -}}
{{- end -}}

{{/* A comma-separated list without blanks, empty parts and duplicates. Takes: the text. */}}
{{- define "agentplane.list" -}}
{{- $parts := list -}}
{{- range splitList "," . -}}
{{- with trim . -}}{{- $parts = append $parts . -}}{{- end -}}
{{- end -}}
{{- $parts | uniq | join "," -}}
{{- end -}}

{{/*
Whether the operator may create ServiceAccounts or SecretProviderClasses (takes: root, kind), and PodDisruptionBudgets.
`helm upgrade --reuse-values` may keep the values of a chart version without these keys; then the defaults apply.
*/}}
{{- define "agentplane.managed" -}}
{{- get (.root.Values.operator.managedResources | default dict) .kind | default false -}}
{{- end -}}
{{- define "agentplane.budgets" -}}
{{- ne (toString .Values.operator.podDisruptionBudgets) "false" -}}
{{- end -}}

{{/*
Prefix of queues and keys in Redis. Unless config.hostQueue gives one (upstream's default "host" counts as none), it is
made from namespace and name of the installation, so that installations that share a Redis never see each other's work.
*/}}
{{- define "agentplane.prefix" -}}
{{- if has (.Values.config.hostQueue | default "") (list "" "host") -}}
{{- $whole := printf "%s-%s" (include "agentplane.namespace" .) (include "agentplane.fullname" .) | replace "." "-" -}}
{{- if gt (len $whole) 40 -}}
{{- printf "%s-%s" ($whole | trunc 31 | trimSuffix "-") (sha256sum $whole | trunc 8) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- else -}}
{{- .Values.config.hostQueue -}}
{{- end -}}
{{- end -}}

{{/*
Image of a component. Takes: root, component. One image contains every process. images.listenerImage and
images.operatorImage override it for one component, unless they name upstream's image, which agentplane.validate checks.
*/}}
{{- define "agentplane.image" -}}
{{- $images := .root.Values.images -}}
{{- $base := $images.agentplaneImage -}}
{{- $own := get $images (printf "%sImage" .component) | default dict -}}
{{- if has ($own.repository | default "") (list "" "docker.io/langchain/langsmith-backend" "docker.io/langchain/langgraph-operator") -}}
{{- $own = dict -}}
{{- end -}}
{{- if eq .component "redis" -}}{{- $base = $images.redisImage -}}{{- end -}}
{{- $repository := $own.repository | default $base.repository -}}
{{- $tag := $own.tag | default $base.tag | default .root.Chart.AppVersion -}}
{{- if not (kindIs "string" $tag) -}}{{- $tag = int64 $tag | toString -}}{{- end -}}
{{- with $images.registry -}}{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}{{- end -}}
{{- ternary (printf "%s@%s" $repository $tag) (printf "%s:%s" $repository $tag) (hasPrefix "sha256:" $tag) -}}
{{- end -}}

{{- define "agentplane.pullPolicy" -}}
{{- $images := .root.Values.images -}}
{{- $own := get $images (printf "%sImage" .component) | default dict -}}
{{- $own.pullPolicy | default $images.agentplaneImage.pullPolicy -}}
{{- end -}}

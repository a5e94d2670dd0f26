{{/*
What does not fit together, each with the mend; all of it at once. The processes check their settings again, but a
message of `helm upgrade` comes before anything is changed.
*/}}

{{- define "agentplane.mistakes.identity" -}}
{{- $uuid := "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" -}}
{{- $config := .Values.config -}}
{{- if not (or .Values.listener.enabled .Values.operator.enabled) }}
- listener.enabled and operator.enabled are both false: nothing would run
{{- end }}
{{- if .Values.listener.enabled }}
{{- if not (or $config.langsmithApiKey $config.existingSecretName) }}
- config.langsmithApiKey is not set: the LangSmith API key of the workspace; or config.existingSecretName, a Secret that has it as {{ $config.langsmithApiKeySecretKey }}
{{- end }}
{{- range $name, $what := dict "langsmithWorkspaceId" "id of the LangSmith workspace" "langgraphListenerId" "id of the listener (LangSmith: Deployments > Listeners)" }}
{{- $value := get $config $name }}
{{- if not $value }}
- config.{{ $name }} is not set: {{ $what }}
{{- else if not (regexMatch $uuid $value) }}
- config.{{ $name }}={{ $value }} is no UUID: {{ $what }}
{{- end }}
{{- end }}
{{- else if not (or $config.digestKey $config.langsmithApiKey $config.existingSecretName) }}
- config.digestKey is not set: a long random word, which an operator without a listener keeps digests with; or config.existingSecretName, a Secret that has it as {{ $config.digestKeySecretKey }}
{{- end }}
{{- if and $config.existingSecretName (or $config.langsmithApiKey $config.digestKey $config.sentryDsn) }}
- config.existingSecretName={{ $config.existingSecretName }} and one of config.langsmithApiKey, config.digestKey, config.sentryDsn are both set: put the values into that Secret, or leave existingSecretName empty
{{- end }}
{{- with $config.hostQueue }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$" .) }}
- config.hostQueue={{ . }}: it becomes the prefix of queues and Redis keys: at most 40 lowercase letters, digits and dashes
{{- end }}
{{- end }}
{{- range $old, $new := dict "rootDomain" "ingress.hostname" }}
{{- if hasKey $config $old }}
- config.{{ $old }} is of an older chart: use {{ $new }}
{{- end }}
{{- end }}
{{- if .Values.listener.templates }}
- listener.templates have moved to operator.templates
{{- end }}
{{- end -}}

{{- define "agentplane.mistakes.regions" -}}
{{- $config := .Values.config -}}
{{- $regions := dict "api" "gcp-us" "eu.api" "gcp-eu" "apac.api" "gcp-apac" "aws.api" "aws-us" -}}
{{- $found := dict -}}
{{- with $config.region }}{{ $_ := set $found "config.region" . }}{{ end -}}
{{- range $name := list "hostBackendUrl" "smithBackendUrl" -}}
{{- $kind := ternary "host" "smith" (eq $name "hostBackendUrl") -}}
{{- $url := get $config $name | trimSuffix "/" -}}
{{- range $start, $region := $regions -}}
{{- if eq $url (printf "https://%s.%s.langchain.com" $start $kind) }}{{ $_ := set $found (printf "config.%s" $name) $region }}{{ end -}}
{{- if eq $url (printf "https://%s.%s.langchain.com" $start (ternary "smith" "host" (eq $kind "host"))) }}
- config.{{ $name }}={{ $url }} is the other one of the two URLs: api.host is the control plane, api.smith the LangSmith API
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (values $found | uniq | len) 1 }}
- {{ range $index, $name := keys $found | sortAlpha }}{{ if $index }}, {{ end }}{{ $name }} is of {{ get $found $name }}{{ end }}: all must be of one region; config.region alone sets both URLs
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.routes" -}}
{{- $watched := splitList "," (include "agentplane.watched" .) -}}
{{- $enabled := list -}}
{{- range $name := list "ingress" "gateway" "istioGateway" -}}
{{- $values := get $.Values $name -}}
{{- if $values.enabled -}}
{{- $enabled = append $enabled $name -}}
{{- if and (ne $name "ingress") (not $values.name) }}
- {{ $name }}.name is not set: the Gateway that routes hang on
{{- end -}}
{{- if not $values.hostname }}
{{- if ne $name "ingress" }}
- {{ $name }}.hostname is not set: the hostname of all Agent Servers
{{- else if and $.Values.listener.enabled $.Values.config.enableLGPDeploymentHealthCheck }}
- ingress.hostname is not set: the hostname of all Agent Servers, which the health check goes through; or set config.enableLGPDeploymentHealthCheck=false
{{- end }}
{{- else if regexMatch "^[a-z]+://|/" $values.hostname }}
- {{ $name }}.hostname={{ $values.hostname }}: a hostname without https:// and without a path
{{- else if not (regexMatch (printf "^[^:]+(:%s)?$" (include "agentplane.portPattern" $)) $values.hostname) }}
- {{ $name }}.hostname={{ $values.hostname }}: a hostname, with a port from 1 to 65535 or without one; an address does not do
{{- end -}}
{{- else -}}
{{- $set := list -}}
{{- range $key := list "name" "namespace" "hostname" "basePath" -}}
{{- if and (ne $name "ingress") (get $values $key) }}{{ $set = append $set (printf "%s.%s" $name $key) }}{{ end -}}
{{- end -}}
{{- with $set }}
- {{ join ", " . }} would do nothing while {{ $name }}.enabled is false: enable {{ $name }} (and disable the others), or leave it out
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (len $enabled) 1 }}
- {{ join " and " $enabled }} are enabled together: at most one may be; with a gateway, set ingress.enabled=false
{{- end -}}
{{- if .Values.ingress.enabled }}
{{- if gt (len $watched) 1 }}
- config.watchNamespaces={{ join "," $watched }} with ingress: a plain Ingress only leads to Services of its own namespace; for more than one namespace use gateway or istioGateway, and set ingress.enabled=false
{{- else if and .Values.ingress.create (include "agentplane.ingressElsewhere" .) }}
- ingress.namespace={{ .Values.ingress.namespace }} with ingress.create=true, but the chart makes the shared Ingress where the Agent Servers are, in {{ first $watched }}: leave ingress.namespace empty, or set ingress.create=false to use an Ingress of yours in {{ .Values.ingress.namespace }}
{{- end }}
{{- if not .Values.ingress.create }}
{{- range $key := list "annotations" "labels" "tls" "additionalPaths" }}
{{- if get $.Values.ingress $key }}
- ingress.{{ $key }} would do nothing while ingress.create is false: put it on the Ingress that you made, or let the chart create it
{{- end }}
{{- end }}
{{- if .Values.ingress.metricsPrefix }}
- ingress.metricsPrefix would do nothing while ingress.create is false: add the path to the Ingress that you made, or let the chart create it
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.listener.enabled .Values.operator.watchNamespaces }}
{{- if ne (include "agentplane.list" .Values.operator.watchNamespaces | splitList "," | sortAlpha | join ",") ($watched | sortAlpha | join ",") }}
- operator.watchNamespaces={{ .Values.operator.watchNamespaces }}, but the listener deploys to {{ join "," $watched }}: both halves of an installation watch config.watchNamespaces; for an operator of other namespaces install the chart once more with listener.enabled=false
{{- end }}
{{- end }}
{{- end -}}

{{- define "agentplane.mistakes.images" -}}
{{- $known := dict
  "listenerImage" (dict "repository" "docker.io/langchain/langsmith-backend" "tag" "0.16.36")
  "operatorImage" (dict "repository" "docker.io/langchain/langgraph-operator" "tag" "0.1.36") -}}
{{- range $name, $upstream := $known -}}
{{- $given := get $.Values.images $name -}}
{{- $end := $given.repository | default $upstream.repository | splitList "/" | last -}}
{{- $theirs := has $end (list "langsmith-backend" "hosted-langserve-backend" "langgraph-operator") -}}
{{- if and $theirs $given.repository (ne $given.repository $upstream.repository) }}
- images.{{ $name }}.repository={{ $given.repository }} holds another program: one image holds every process of this chart; set images.agentplaneImage.repository to where yours is, and leave {{ $name }} out
{{- else if and $theirs $given.tag (ne (toString $given.tag) $upstream.tag) }}
- images.{{ $name }}.tag={{ $given.tag }} is a tag of {{ $upstream.repository }}, which this chart does not run; set images.agentplaneImage.tag, and leave {{ $name }} out
{{- end -}}
{{- end -}}
{{- $command := .Values.listener.deployment.command -}}
{{- if and $command (ne (toJson $command) (toJson (list "host_backend_entrypoint.sh" "./listener_entrypoint.sh"))) (has "host_backend_entrypoint.sh" $command) }}
- listener.deployment.command={{ toJson $command }} starts a program that is not in the image: leave it out, or give the whole command (python -m workers listener)
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.redis" -}}
{{- $external := .Values.redis.external -}}
{{- if $external.enabled -}}
{{- if not (or $external.connectionUrl $external.existingSecretName) }}
- redis.external.enabled needs redis.external.connectionUrl, or redis.external.existingSecretName, a Secret that has the URL as {{ $external.connectionUrlSecretKey }}
{{- end }}
{{- if and $external.connectionUrl $external.existingSecretName }}
- redis.external.connectionUrl and redis.external.existingSecretName are both set: put the URL into that Secret, or leave existingSecretName empty
{{- end }}
{{- $sentinel := $external.sentinel }}
{{- with $external.connectionUrl }}
{{- if hasPrefix "sentinel://" . }}
{{- if not $sentinel.master }}
- redis.external.sentinel.master is not set: the name by which the Sentinels of redis.external.connectionUrl know the master
{{- end }}
{{- range compact (splitList ";" .) }}
{{- if not (and (hasPrefix "sentinel://" (trim .)) (regexMatch (include "agentplane.redisPattern" $) (trim .))) }}
- redis.external.connectionUrl (its value is not shown): every address between the semicolons must be sentinel://[user:password@]host[:port][/database]; a password must be percent-encoded (%3B for a semicolon), and the name of the master is redis.external.sentinel.master
{{- end }}
{{- end }}
{{- else if not (regexMatch "^rediss?://" .) }}
- redis.external.connectionUrl must start with redis:// or, for TLS, rediss://; or with sentinel:// (its value is not shown)
{{- else if not (regexMatch (include "agentplane.redisPattern" $) .) }}
- redis.external.connectionUrl (its value is not shown) must be redis://[user:password@]host[:port][/database]; a password must be percent-encoded
{{- else if compact (list $sentinel.master $sentinel.username $sentinel.password) }}
- redis.external.sentinel would do nothing, as redis.external.connectionUrl does not start with sentinel://: name the Sentinels there, or leave it out
{{- end }}
{{- end }}
{{- $address := printf "^(\\[[0-9A-Fa-f:.]+\\]|[^:]+):%s$" (include "agentplane.portPattern" $) -}}
{{- range (include "agentplane.externalRedis" $ | fromJson).addresses }}
{{- if not (regexMatch $address .) }}
- redis.external.{{ ternary "address" "connectionUrl" (not (empty $external.address)) }} (its value is not shown): every address must be host:port, with a port from 1 to 65535
{{- end }}
{{- end }}
{{- if and $sentinel.passwordSecretKey (not $external.existingSecretName) }}
- redis.external.sentinel.passwordSecretKey is a key of redis.external.existingSecretName, which is not set: beside a connectionUrl, set redis.external.sentinel.password
{{- else if and $sentinel.password $external.existingSecretName }}
- redis.external.sentinel.password and redis.external.existingSecretName are both set: put the password into that Secret, and name its key in redis.external.sentinel.passwordSecretKey
{{- else if and (or $sentinel.username $sentinel.password $sentinel.passwordSecretKey) (not $sentinel.master) (not $external.connectionUrl) }}
- redis.external.sentinel.master is not set: the name by which the Sentinels know the master
{{- end }}
{{- else if or $external.connectionUrl $external.existingSecretName $external.sentinel.master }}
- redis.external.connectionUrl, redis.external.existingSecretName and redis.external.sentinel would do nothing while redis.external.enabled is false: set it to true, or leave them out
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.scaling" -}}
{{- range $component := list "listener" "operator" -}}
{{- $scaling := (get $.Values $component).autoscaling -}}
{{- if and (get $.Values $component).enabled $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
- {{ $component }}.autoscaling.minReplicas={{ $scaling.minReplicas }} is more than maxReplicas={{ $scaling.maxReplicas }}
{{- end }}
{{- if and $scaling.keda.enabled $.Values.redis.external.enabled (not $.Values.redis.external.address) (not $.Values.redis.external.connectionUrl) }}
- {{ $component }}.autoscaling.keda.enabled: KEDA cannot read a URL from a Secret; set redis.external.address to host:port of {{ ternary "every Sentinel, with commas between" "Redis" (eq (include "agentplane.sentinels" $) "true") }}, and redis.external.passwordSecretKey to the key of {{ $.Values.redis.external.existingSecretName | default "the Secret" }} that has the password, if there is one
{{- end }}
{{- if and $scaling.keda.enabled (contains "%" (pick (include "agentplane.externalRedis" $ | fromJson) "user" "password" | toJson)) }}
- {{ $component }}.autoscaling.keda.enabled: the user or password in redis.external.connectionUrl is percent-encoded, which KEDA does not understand; use redis.external.existingSecretName with address and passwordSecretKey
{{- end }}
{{- end -}}
{{- end -}}
{{- if and .Values.flower.enabled (not .Values.flower.existingSecretName) }}
- flower.existingSecretName is not set: Flower shows every task and can end workers, so it only runs with basic auth; name a Secret that has user:password as {{ .Values.flower.basicAuthSecretKey }}
{{- end -}}
{{- if and .Values.caBundle.configMapName .Values.caBundle.secretName }}
- caBundle.configMapName and caBundle.secretName are both set: the bundle comes from one of them
{{- end -}}
{{- end -}}

{{/* The definition of LGPs belongs to one release of a cluster, whoever installed it. */}}
{{- define "agentplane.mistakes.definition" -}}
{{- if and .Values.operator.enabled .Values.operator.createCRDs -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "lgps.apps.langchain.ai" -}}
{{- if $live -}}
{{- $annotations := $live.metadata.annotations | default dict -}}
{{- $name := get $annotations "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" | default "" -}}
{{- if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) }}
- operator.createCRDs is true, but the CustomResourceDefinition lgps.apps.langchain.ai is installed already{{ if $name }}, by release {{ $name }} in namespace {{ $namespace }}{{ end }}: set operator.createCRDs=false
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentplane.validate" -}}
{{- $mistakes := "" -}}
{{- range $part := list "identity" "regions" "routes" "images" "redis" "scaling" "definition" -}}
{{- with include (printf "agentplane.mistakes.%s" $part) $ | trim -}}
{{- $mistakes = printf "%s\n%s" $mistakes . -}}
{{- end -}}
{{- end -}}
{{- with regexReplaceAll "\n\\s*\n" $mistakes "\n" | trim -}}
{{- fail (printf "\n\n%s\n" .) -}}
{{- end -}}
{{- end -}}

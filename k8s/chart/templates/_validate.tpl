{{/*
Checks of the values. All mistakes are reported together, each with its fix. The processes check their settings again at
their start, but `helm upgrade` reports a mistake before it changes anything.
*/}}

{{- define "agentplane.mistakes.identity" -}}
{{- $uuid := "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" -}}
{{- $config := .Values.config -}}
{{- if not (or .Values.listener.enabled .Values.operator.enabled) }}
- listener.enabled and operator.enabled are both false, so nothing would run: set one of them to true
{{- end }}
{{- if .Values.listener.enabled }}
{{- if not (or $config.langsmithApiKey $config.existingSecretName) }}
- config.langsmithApiKey is not set: set it to the LangSmith API key of the workspace, or set config.existingSecretName to a Secret that has the key as {{ $config.langsmithApiKeySecretKey }}
{{- end }}
{{- range $name, $what := dict "langsmithWorkspaceId" "id of the LangSmith workspace" "langgraphListenerId" "id of the listener (LangSmith: Deployments > Listeners)" }}
{{- $value := get $config $name }}
{{- if not $value }}
- config.{{ $name }} is not set: set it to the {{ $what }}
{{- else if not (regexMatch $uuid $value) }}
- config.{{ $name }}={{ $value }} is not a UUID: set it to the {{ $what }}
{{- end }}
{{- end }}
{{- else if not (or $config.digestKey $config.langsmithApiKey $config.existingSecretName) }}
- config.digestKey is not set, and an operator without a listener needs it for its keyed digests: set it to a long random text, or set config.existingSecretName to a Secret that has it as {{ $config.digestKeySecretKey }}
{{- end }}
{{- if and $config.existingSecretName (or $config.langsmithApiKey $config.digestKey $config.sentryDsn) }}
- config.existingSecretName={{ $config.existingSecretName }} is set together with config.langsmithApiKey, config.digestKey or config.sentryDsn: put those values into the Secret, or leave config.existingSecretName empty
{{- end }}
{{- with $config.hostQueue }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$" .) }}
- config.hostQueue={{ . }} is not a valid prefix of queues and Redis keys: use at most 40 lowercase letters, digits and dashes
{{- end }}
{{- end }}
{{- range $old, $new := dict "rootDomain" "ingress.hostname" }}
{{- if hasKey $config $old }}
- config.{{ $old }} is a key of an older chart: use {{ $new }} instead
{{- end }}
{{- end }}
{{- if .Values.listener.templates }}
- listener.templates has moved: use operator.templates instead
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
- config.{{ $name }}={{ $url }} is the wrong one of the two URLs: config.hostBackendUrl is the control plane (api.host), config.smithBackendUrl is the LangSmith API (api.smith)
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (values $found | uniq | len) 1 }}
- {{ range $index, $name := keys $found | sortAlpha }}{{ if $index }}, {{ end }}{{ $name }} belongs to {{ get $found $name }}{{ end }}: all must belong to one region; set config.region alone, which sets both URLs
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
- {{ $name }}.name is not set: set it to the name of the Gateway that serves the routes
{{- end -}}
{{- if not $values.hostname }}
{{- if ne $name "ingress" }}
- {{ $name }}.hostname is not set: set it to the hostname of all Agent Servers
{{- else if and $.Values.listener.enabled $.Values.config.enableLGPDeploymentHealthCheck }}
- ingress.hostname is not set: set it to the hostname of all Agent Servers, which the health check uses; or set config.enableLGPDeploymentHealthCheck=false
{{- end }}
{{- else if regexMatch "^[a-z]+://|/" $values.hostname }}
- {{ $name }}.hostname={{ $values.hostname }} is not a hostname: give it without https:// and without a path
{{- else if not (regexMatch (printf "^[^:]+(:%s)?$" (include "agentplane.portPattern" $)) $values.hostname) }}
- {{ $name }}.hostname={{ $values.hostname }} is not a hostname: give a hostname (not an IP address), alone or with a port from 1 to 65535
{{- end -}}
{{- else -}}
{{- $set := list -}}
{{- range $key := list "name" "namespace" "hostname" "basePath" -}}
{{- if and (ne $name "ingress") (get $values $key) }}{{ $set = append $set (printf "%s.%s" $name $key) }}{{ end -}}
{{- end -}}
{{- with $set }}
- {{ join ", " . }} has no effect while {{ $name }}.enabled is false: enable {{ $name }} and disable the other exposures, or remove the value
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (len $enabled) 1 }}
- {{ join " and " $enabled }} are enabled together: enable at most one; with a gateway, set ingress.enabled=false
{{- end -}}
{{- if .Values.ingress.enabled }}
{{- if gt (len $watched) 1 }}
- config.watchNamespaces={{ join "," $watched }} does not work with ingress: an Ingress only leads to Services of its own namespace; for more than one namespace use gateway or istioGateway, and set ingress.enabled=false
{{- else if and .Values.ingress.create (include "agentplane.ingressElsewhere" .) }}
- ingress.namespace={{ .Values.ingress.namespace }} does not work with ingress.create=true: the chart creates the shared Ingress in the namespace of the Agent Servers, {{ first $watched }}; leave ingress.namespace empty, or set ingress.create=false to use your own Ingress in {{ .Values.ingress.namespace }}
{{- end }}
{{- if not .Values.ingress.create }}
{{- range $key := list "annotations" "labels" "tls" "additionalPaths" }}
{{- if get $.Values.ingress $key }}
- ingress.{{ $key }} has no effect while ingress.create is false: set it on your own Ingress, or set ingress.create=true
{{- end }}
{{- end }}
{{- if .Values.ingress.metricsPrefix }}
- ingress.metricsPrefix has no effect while ingress.create is false: add the path to your own Ingress, or set ingress.create=true
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.listener.enabled .Values.operator.watchNamespaces }}
{{- if ne (include "agentplane.list" .Values.operator.watchNamespaces | splitList "," | sortAlpha | join ",") ($watched | sortAlpha | join ",") }}
- operator.watchNamespaces={{ .Values.operator.watchNamespaces }} differs from the listener's namespaces, {{ join "," $watched }}: listener and operator of one installation watch config.watchNamespaces; for an operator in other namespaces install the chart again, with listener.enabled=false
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
- images.{{ $name }}.repository={{ $given.repository }} contains another program: one image contains every process of this chart; set images.agentplaneImage.repository to that image, and remove images.{{ $name }}
{{- else if and $theirs $given.tag (ne (toString $given.tag) $upstream.tag) }}
- images.{{ $name }}.tag={{ $given.tag }} is a tag of {{ $upstream.repository }}, which this chart does not run: set images.agentplaneImage.tag, and remove images.{{ $name }}
{{- end -}}
{{- end -}}
{{- $command := .Values.listener.deployment.command -}}
{{- if and $command (ne (toJson $command) (toJson (list "host_backend_entrypoint.sh" "./listener_entrypoint.sh"))) (has "host_backend_entrypoint.sh" $command) }}
- listener.deployment.command={{ toJson $command }} starts a program that is not in the image: remove the value, or give the whole command (python -m workers listener)
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.redis" -}}
{{- $external := .Values.redis.external -}}
{{- if $external.enabled -}}
{{- if not (or $external.connectionUrl $external.existingSecretName) }}
- redis.external.enabled=true needs redis.external.connectionUrl: set it, or set redis.external.existingSecretName to a Secret that has the URL as {{ $external.connectionUrlSecretKey }}
{{- end }}
{{- if and $external.connectionUrl $external.existingSecretName }}
- redis.external.connectionUrl and redis.external.existingSecretName are both set: put the URL into the Secret, or leave redis.external.existingSecretName empty
{{- end }}
{{- $sentinel := $external.sentinel }}
{{- with $external.connectionUrl }}
{{- if hasPrefix "sentinel://" . }}
{{- if not $sentinel.master }}
- redis.external.sentinel.master is not set: set it to the name by which the Sentinels of redis.external.connectionUrl know the master
{{- end }}
{{- range compact (splitList ";" .) }}
{{- if not (and (hasPrefix "sentinel://" (trim .)) (regexMatch (include "agentplane.redisPattern" $) (trim .))) }}
- redis.external.connectionUrl (its value is not shown) is not a valid list of Sentinels: every address between the semicolons must be sentinel://[user:password@]host[:port][/database]; a password must be percent-encoded (%3B for a semicolon); the name of the master belongs in redis.external.sentinel.master
{{- end }}
{{- end }}
{{- else if not (regexMatch "^rediss?://" .) }}
- redis.external.connectionUrl (its value is not shown) must start with redis://, rediss:// (TLS) or sentinel://
{{- else if not (regexMatch (include "agentplane.redisPattern" $) .) }}
- redis.external.connectionUrl (its value is not shown) must be redis://[user:password@]host[:port][/database]; a password must be percent-encoded
{{- else if compact (list $sentinel.master $sentinel.username $sentinel.password) }}
- redis.external.sentinel has no effect, because redis.external.connectionUrl does not start with sentinel://: name the Sentinels in redis.external.connectionUrl, or remove redis.external.sentinel
{{- end }}
{{- end }}
{{- $address := printf "^(\\[[0-9A-Fa-f:.]+\\]|[^:]+):%s$" (include "agentplane.portPattern" $) -}}
{{- range (include "agentplane.externalRedis" $ | fromJson).addresses }}
{{- if not (regexMatch $address .) }}
- redis.external.{{ ternary "address" "connectionUrl" (not (empty $external.address)) }} (its value is not shown) has an invalid address: every address must be host:port, with a port from 1 to 65535
{{- end }}
{{- end }}
{{- if and $sentinel.passwordSecretKey (not $external.existingSecretName) }}
- redis.external.sentinel.passwordSecretKey names a key of redis.external.existingSecretName, which is not set: with redis.external.connectionUrl, set redis.external.sentinel.password instead
{{- else if and $sentinel.password $external.existingSecretName }}
- redis.external.sentinel.password and redis.external.existingSecretName are both set: put the password into the Secret, and set redis.external.sentinel.passwordSecretKey to its key
{{- else if and (or $sentinel.username $sentinel.password $sentinel.passwordSecretKey) (not $sentinel.master) (not $external.connectionUrl) }}
- redis.external.sentinel.master is not set: set it to the name by which the Sentinels know the master
{{- end }}
{{- else if or $external.connectionUrl $external.existingSecretName $external.sentinel.master }}
- redis.external.connectionUrl, redis.external.existingSecretName and redis.external.sentinel have no effect while redis.external.enabled is false: set redis.external.enabled=true, or remove these values
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.scaling" -}}
{{- range $component := list "listener" "operator" -}}
{{- $scaling := (get $.Values $component).autoscaling -}}
{{- if and (get $.Values $component).enabled $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
- {{ $component }}.autoscaling.minReplicas={{ $scaling.minReplicas }} is more than {{ $component }}.autoscaling.maxReplicas={{ $scaling.maxReplicas }}: lower the first, or raise the second
{{- end }}
{{- if and $scaling.keda.enabled $.Values.redis.external.enabled (not $.Values.redis.external.address) (not $.Values.redis.external.connectionUrl) }}
- {{ $component }}.autoscaling.keda.enabled=true does not work with a Redis URL in a Secret, which KEDA cannot read: set redis.external.address to host:port of {{ ternary "every Sentinel, separated by commas" "Redis" (eq (include "agentplane.sentinels" $) "true") }}, and redis.external.passwordSecretKey to the key of {{ $.Values.redis.external.existingSecretName | default "the Secret" }} that has the password, if there is one
{{- end }}
{{- if and $scaling.keda.enabled (contains "%" (pick (include "agentplane.externalRedis" $ | fromJson) "user" "password" | toJson)) }}
- {{ $component }}.autoscaling.keda.enabled=true does not work with a percent-encoded user or password in redis.external.connectionUrl, which KEDA does not decode: use redis.external.existingSecretName with redis.external.address and redis.external.passwordSecretKey
{{- end }}
{{- end -}}
{{- end -}}
{{- if and .Values.flower.enabled (not .Values.flower.existingSecretName) }}
- flower.existingSecretName is not set, but Flower shows every task and can end workers, so it runs only with basic auth: set flower.existingSecretName to a Secret that has user:password as {{ .Values.flower.basicAuthSecretKey }}
{{- end -}}
{{- if and .Values.caBundle.configMapName .Values.caBundle.secretName }}
- caBundle.configMapName and caBundle.secretName are both set: set only the one that has the bundle
{{- end -}}
{{- end -}}

{{/* One release of a cluster owns the CustomResourceDefinition of LGPs. This release must not install a second one. */}}
{{- define "agentplane.mistakes.definition" -}}
{{- if and .Values.operator.enabled .Values.operator.createCRDs -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "lgps.apps.langchain.ai" -}}
{{- if $live -}}
{{- $annotations := $live.metadata.annotations | default dict -}}
{{- $name := get $annotations "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" | default "" -}}
{{- if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) }}
- operator.createCRDs is true, but the CustomResourceDefinition lgps.apps.langchain.ai is already installed{{ if $name }}, by release {{ $name }} in namespace {{ $namespace }}{{ end }}: set operator.createCRDs=false
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentplane.mistakes.settings" -}}
{{- $known := .Files.Lines "files/settings.txt" | compact -}}
{{- range $name, $_ := .Values.config.settings }}
{{- if not (has $name $known) }}
{{- $near := include "agentplane.nearest" (dict "name" $name "known" $known) }}
- config.settings.{{ $name }}: there is no such setting{{ with $near }}; did you mean {{ . }}?{{ else }};{{ end }} docs/settings.md lists all settings
{{- end }}
{{- end }}
{{- end -}}

{{/*
The name in `known` that is nearest to `name`, by the share of common pairs of letters; empty when none is near.
*/}}
{{- define "agentplane.nearest" -}}
{{- $name := .name -}}
{{- $best := dict "score" 50 "name" "" -}}
{{- range $known := .known -}}
{{- $common := 0 -}}
{{- range $at := until (int (sub (len $name) 1)) -}}
{{- if contains (substr $at (int (add $at 2)) $name) $known -}}{{- $common = add $common 1 -}}{{- end -}}
{{- end -}}
{{- $score := div (mul 200 $common) (add (len $name) (len $known)) | int -}}
{{- if gt $score (int $best.score) -}}{{- $_ := set (set $best "score" $score) "name" $known -}}{{- end -}}
{{- end -}}
{{- $best.name -}}
{{- end -}}

{{- define "agentplane.validate" -}}
{{- $mistakes := "" -}}
{{- range $part := list "identity" "settings" "regions" "routes" "images" "redis" "scaling" "definition" -}}
{{- with include (printf "agentplane.mistakes.%s" $part) $ | trim -}}
{{- $mistakes = printf "%s\n%s" $mistakes . -}}
{{- end -}}
{{- end -}}
{{- with regexReplaceAll "\n\\s*\n" $mistakes "\n" | trim -}}
{{- fail (printf "\n\n%s\n" .) -}}
{{- end -}}
{{- end -}}

{{/*
The pod of every process, and the parts that workloads share.
*/}}

{{/*
A probe. Takes: probe (the values), command (the chart's own check). The values have the timings. A handler in the values
is used, unless it is the default of the langgraph-dataplane chart: its programs and paths are not in this image.
*/}}
{{- define "agentplane.probe" -}}
{{- $timings := omit .probe "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- $handler := pick .probe "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- $command := dig "exec" "command" list .probe -}}
{{- $health := eq (dig "httpGet" "path" "" .probe) "/health" -}}
{{- $foreign := or (has "saq" $command) (and $health (eq .component "listener")) (eq (last $command | default "") "exec redis-cli ping") -}}
{{- if or $foreign (not $handler) -}}
{{- $handler = dict "exec" (dict "command" .command) -}}
{{- end -}}
{{- merge $timings $handler | toYaml -}}
{{- end -}}

{{/* A checksum of Secrets and templates. (A changed environment variable restarts pods without it.) */}}
{{- define "agentplane.checksum" -}}
{{- $parts := list (include "agentplane.secretData" .) (toYaml .Values.operator.templates) -}}
{{- if .Values.redis.external.connectionUrl }}{{ $parts = append $parts (include "agentplane.redisSecretData" .) }}{{ end -}}
{{- range $name := compact (list .Values.config.existingSecretName .Values.redis.external.existingSecretName) -}}
{{- $live := lookup "v1" "Secret" (include "agentplane.namespace" $) $name -}}
{{- $parts = append $parts (dig "metadata" "resourceVersion" "" ($live | default dict)) -}}
{{- end -}}
{{- $parts | join "\n" | sha256sum -}}
{{- end -}}

{{/*
The pod template of a process. Takes: root, component, command, check, own (variables), ports (a list).
*/}}
{{- define "agentplane.pod" -}}
{{- $root := .root -}}
{{- $values := get $root.Values .component -}}
{{- $deployment := $values.deployment -}}
{{- $process := dict "name" "AGENTPLANE_PROCESS" "value" .component -}}
{{- $templates := dict -}}
{{- range $name, $text := $root.Values.operator.templates }}{{ if $text }}{{ $_ := set $templates $name $text }}{{ end }}{{ end -}}
{{- $bundle := $root.Values.caBundle -}}
{{- $volumes := list (dict "name" "tmp" "emptyDir" dict) -}}
{{- $mounts := list (dict "name" "tmp" "mountPath" "/tmp") -}}
{{- if $templates -}}
{{- $map := dict "name" (printf "%s-templates" (include "agentplane.fullname" $root)) -}}
{{- $volumes = append $volumes (dict "name" "templates" "configMap" $map) -}}
{{- $mounts = append $mounts (dict "name" "templates" "mountPath" "/etc/agentplane/templates" "readOnly" true) -}}
{{- end -}}
{{- if or $bundle.configMapName $bundle.secretName -}}
{{- $items := list (dict "key" $bundle.key "path" "ca.crt") -}}
{{- $source := dict "configMap" (dict "name" $bundle.configMapName "items" $items) -}}
{{- if $bundle.secretName }}{{ $source = dict "secret" (dict "secretName" $bundle.secretName "items" $items) }}{{ end -}}
{{- $volumes = append $volumes (merge (dict "name" "ca-bundle") $source) -}}
{{- $mounts = append $mounts (dict "name" "ca-bundle" "mountPath" "/etc/agentplane/ca" "readOnly" true) -}}
{{- end -}}
{{- $volumes = concat $volumes ($root.Values.commonVolumes | default list) ($deployment.volumes | default list) -}}
{{- $mounts = concat $mounts ($root.Values.commonVolumeMounts | default list) ($deployment.volumeMounts | default list) -}}
{{- $annotations := merge dict ($deployment.annotations | default dict) ($root.Values.commonAnnotations | default dict) -}}
{{- if $deployment.autoRestart -}}
{{- $_ := set $annotations "agentplane.dev/checksum" (include "agentplane.checksum" $root) -}}
{{- end -}}
metadata:
  labels:
    {{- include "agentplane.podLabels" (dict "root" $root "component" .component "labels" $deployment.labels) | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "agentplane.account" . }}
  automountServiceAccountToken: {{ $values.serviceAccount.automountServiceAccountToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $deployment.terminationGracePeriodSeconds }}
  {{- with $root.Values.images.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $deployment.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $deployment.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.commonDnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ $values.name }}
      image: {{ include "agentplane.image" . | quote }}
      imagePullPolicy: {{ include "agentplane.pullPolicy" . }}
      command:
        {{- toYaml .command | nindent 8 }}
      env:
        {{- include "agentplane.environment" (dict "root" $root "component" .component "own" (append (.own | default list) $process) "extra" $deployment.extraEnv) | nindent 8 }}
      {{- with .ports }}
      ports:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- range $name := list "startupProbe" "readinessProbe" "livenessProbe" }}
      {{- with get $deployment $name }}
      {{ $name }}:
        {{- include "agentplane.probe" (dict "probe" . "command" $.check "component" $.component) | nindent 8 }}
      {{- end }}
      {{- end }}
      {{- with $deployment.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $deployment.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $deployment.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- toYaml $mounts | nindent 8 }}
      {{- with $deployment.extraContainerConfig }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $deployment.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- toYaml $volumes | nindent 4 }}
  {{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with get $deployment $name }}
  {{ $name }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/*
A Deployment. Takes what agentplane.pod takes, and: single (at most one pod at a time).
*/}}
{{- define "agentplane.deployment" -}}
{{- $deployment := (get .root.Values .component).deployment -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "agentplane.metadata" (dict "root" .root "component" .component "labels" $deployment.labels "annotations" $deployment.annotations) | nindent 2 }}
spec:
  {{- if .single }}
  replicas: 1
  strategy:
    type: Recreate
  {{- else }}
  {{- with include "agentplane.replicas" . }}
  replicas: {{ . }}
  {{- end }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "agentplane.selector" . | nindent 6 }}
  template:
    {{- include "agentplane.pod" . | nindent 4 }}
{{- end -}}

{{/* A Service. Takes: root, component, port, target, portName. */}}
{{- define "agentplane.service" -}}
{{- $service := (get .root.Values .component).service -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "agentplane.metadata" (dict "root" .root "component" .component "labels" $service.labels "annotations" $service.annotations) | nindent 2 }}
spec:
  type: {{ $service.type }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.loadBalancerIP }}
  loadBalancerIP: {{ . }}
  {{- end }}
  selector:
    {{- include "agentplane.selector" . | nindent 4 }}
  ports:
    - name: {{ .portName }}
      port: {{ .port }}
      targetPort: {{ .portName }}
      protocol: TCP
{{- end -}}

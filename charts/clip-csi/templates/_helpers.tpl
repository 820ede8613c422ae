{{/* A StatefulSet's pods have a label of its name and 11 more, 63 in all: "-content-cache" and 38 are 52. */}}
{{- define "clip-csi.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- end -}}

{{- define "clip-csi.node" -}}{{ include "clip-csi.fullname" . }}-node{{- end -}}
{{- define "clip-csi.contentCache" -}}{{ include "clip-csi.fullname" . }}-content-cache{{- end -}}
{{- define "clip-csi.pullSecrets" -}}{{ include "clip-csi.fullname" . }}-pull-secrets{{- end -}}

{{/* What selects the pods of one component: (list . "node") */}}
{{- define "clip-csi.selector" -}}
app.kubernetes.io/name: clip-csi
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "clip-csi.labels" -}}
{{ include "clip-csi.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end -}}

{{- define "clip-csi.image" -}}
{{- $image := .Values.image -}}
{{- if and $image.digest (not $image.tag) -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Whether there is a content cache of ours; else "". */}}
{{- define "clip-csi.hasReplicas" -}}
{{- if and .Values.contentCache.enabled (not .Values.contentCache.objectStore.url) }}true{{ end -}}
{{- end -}}

{{/* Names of the Secrets: the user's own, or those that are made. */}}
{{- define "clip-csi.indexKeySecret" -}}
{{- .Values.indexKey.existingSecret | default (printf "%s-index-key" (include "clip-csi.fullname" .)) -}}
{{- end -}}
{{- define "clip-csi.tokenSecret" -}}
{{- .Values.contentCache.token.existingSecret | default (printf "%s-token" (include "clip-csi.contentCache" .)) -}}
{{- end -}}
{{- define "clip-csi.readTokenSecret" -}}
{{- .Values.contentCache.readToken.existingSecret | default (printf "%s-read-token" (include "clip-csi.contentCache" .)) -}}
{{- end -}}

{{/* In base64, what the Secret has now, else 64 random characters: (list . NAME KEY) */}}
{{- define "clip-csi.kept" -}}
{{- $found := lookup "v1" "Secret" (index . 0).Release.Namespace (index . 1) | default dict -}}
{{- dig "data" (index . 2) (randAlphaNum 64 | b64enc) $found -}}
{{- end -}}

{{/* Whether an object of an operator is wanted, else "": (list . ENABLED GROUP/VERSION) */}}
{{- define "clip-csi.wanted" -}}
{{- $enabled := index . 1 | toString -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") ((index . 0).Capabilities.APIVersions.Has (index . 2))) }}true{{ end -}}
{{- end -}}

{{/* Bytes of 20Gi. */}}
{{- define "clip-csi.bytes" -}}
{{- $factor := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factor (regexFind "[KMGT]i$" .)) -}}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "clip-csi.check" -}}
{{- $cache := .Values.contentCache -}}
{{- $providers := .Values.registries.credentialProviders -}}
{{- if ne (empty $providers.configFile) (empty $providers.binDir) -}}
{{- fail "registries.credentialProviders: configFile and binDir are given together" -}}
{{- end -}}
{{- if and (not $providers.configFile) (or $providers.tokenAudiences $providers.serviceAccountAnnotations) -}}
{{- fail "registries.credentialProviders: tokenAudiences and serviceAccountAnnotations need configFile and binDir" -}}
{{- end -}}
{{- if and $cache.objectStore.url (not $cache.enabled) -}}
{{- fail "contentCache.objectStore.url is set and contentCache.enabled is false: an object store is a content cache too" -}}
{{- end -}}
{{- if and $cache.persistence.enabled (gt (mul 21 (include "clip-csi.bytes" $cache.maxBytes | int64)) (mul 20 (include "clip-csi.bytes" $cache.persistence.size | int64))) -}}
{{- fail (printf "contentCache.persistence.size %s is too small for contentCache.maxBytes %s: a twentieth more is needed for folders and claims" $cache.persistence.size $cache.maxBytes) -}}
{{- end -}}
{{- end -}}

{{/* A registry's folder, and its key in the ConfigMap: host:5000 is host_5000_. */}}
{{- define "clip-csi.mirrorKey" -}}
{{- regexReplaceAll ":([0-9]+)$" . "_${1}_" -}}
{{- end -}}

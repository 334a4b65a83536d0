{{/* Names, labels, and what follows from several values. */}}

{{- define "authsvc.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "authsvc.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "authsvc.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "authsvc.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "authsvc.selector" -}}
app.kubernetes.io/name: {{ include "authsvc.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of the server's pods, and of no other of the release. */}}
{{- define "authsvc.server" -}}
{{ include "authsvc.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "authsvc.labels" -}}
{{ include "authsvc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "authsvc.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "authsvc.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "authsvc.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How many replicas there are at least; the share that each enforces while no store counts for all. */}}
{{- define "authsvc.replicas" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled -}}
{{- end -}}

{{/* "true" where several processes must share record, counters, key-encryption key and administrator. */}}
{{- define "authsvc.shared" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) (gt (int .Values.workers) 1) -}}true{{- end -}}
{{- end -}}

{{/* "true" where the record is a file on the replica's own volume. */}}
{{- define "authsvc.ownVolume" -}}
{{- if not .Values.record.url -}}true{{- end -}}
{{- end -}}

{{- define "authsvc.claim" -}}
{{- default (include "authsvc.fullname" .) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "authsvc.encrypted" -}}
{{- if has .Values.tls.mode (list "self_signed" "files") -}}true{{- end -}}
{{- end -}}

{{- define "authsvc.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- printf "%s-tls" (include "authsvc.fullname" .) -}}
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "authsvc.host" -}}
{{- printf "%s.%s.svc" (include "authsvc.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "authsvc.issuer" -}}
{{- $scheme := ternary "https" "http" (eq (include "authsvc.encrypted" .) "true") -}}
{{- default (printf "%s://%s:%d" $scheme (include "authsvc.host" .) (int .Values.service.httpPort)) .Values.issuer -}}
{{- end -}}

{{- define "authsvc.grace" -}}
{{- add (int .Values.shutdown.delaySeconds) (int .Values.shutdown.graceSeconds) 10 -}}
{{- end -}}

{{/* What the certificate's names are, as a JSON list: the Services', in the forms that callers in the cluster use. */}}
{{- define "authsvc.dnsNames" -}}
{{- $host := include "authsvc.host" . -}}
{{- $headless := printf "%s-headless.%s.svc" (include "authsvc.fullname" .) .Release.Namespace -}}
{{- list (include "authsvc.fullname" .) $host (printf "%s.cluster.local" $host) $headless (printf "%s.cluster.local" $headless) | toJson -}}
{{- end -}}

{{/* authsvc.toml: what the chart sets, then .Values.config over it. */}}
{{- define "authsvc.settings" -}}
{{- $secrets := "/run/secrets/authsvc" -}}
{{- $listen := .Values.listenAddress -}}
{{- $tls := dict -}}
{{- $server := dict
  "listen" (printf "%s:7070" $listen)
  "http_listen" (printf "%s:7071" $listen)
  "ops_listen" (printf "%s:%d" $listen (int .Values.opsPort))
  "transport" .Values.transport
  "workers" (int .Values.workers)
  "replicas" (int (include "authsvc.replicas" .))
  "grace" (printf "%ds" (int .Values.shutdown.graceSeconds))
-}}
{{- $_ := set $tls "mode" .Values.tls.mode -}}
{{- if eq .Values.tls.mode "files" -}}
{{- $_ := set $tls "certificate" (printf "%s/tls/tls.crt" $secrets) -}}
{{- $_ := set $tls "key" (printf "%s/tls/tls.key" $secrets) -}}
{{- end -}}
{{- if eq .Values.tls.mode "self_signed" -}}
{{- $_ := set $tls "names" (include "authsvc.dnsNames" . | fromJsonArray) -}}
{{- end -}}
{{- $_ := set $server "tls" $tls -}}
{{- if .Values.tls.clientCa.existingSecret -}}
{{- $_ := set $server "client_ca" (printf "%s/client-ca/ca.crt" $secrets) -}}
{{- end -}}
{{- $settings := dict "issuer" (include "authsvc.issuer" .) "server" $server -}}
{{- if .Values.record.url -}}
{{- $url := .Values.record.url -}}
{{- if .Values.record.ca.existingSecret -}}
{{- $url = printf "%s%ssslrootcert=%s/record-ca/ca.crt" $url (ternary "&" "?" (contains "?" $url)) $secrets -}}
{{- end -}}
{{- $_ := set $settings "record" (dict "url" $url "password_file" (printf "%s/record/password" $secrets)) -}}
{{- end -}}
{{- if .Values.counters.url -}}
{{- $counters := dict "url" .Values.counters.url -}}
{{- if .Values.counters.existingSecret -}}
{{- $_ := set $counters "password_file" (printf "%s/counters/password" $secrets) -}}
{{- end -}}
{{- if .Values.counters.sentinel.existingSecret -}}
{{- $_ := set $counters "sentinel_password_file" (printf "%s/sentinel/password" $secrets) -}}
{{- end -}}
{{- if .Values.counters.ca.existingSecret -}}
{{- $_ := set $counters "ca" (printf "%s/counters-ca/ca.crt" $secrets) -}}
{{- end -}}
{{- $_ := set $settings "counters" $counters -}}
{{- end -}}
{{- if .Values.kek.existingSecret -}}
{{- $_ := set $settings "keys" (dict "kek" (printf "%s/kek/kek" $secrets)) -}}
{{- end -}}
{{- $bootstrap := dict -}}
{{- if .Values.admin.existingSecret -}}
{{- $_ := set $bootstrap "admin_client_id" .Values.admin.clientId -}}
{{- $_ := set $bootstrap "admin_secret_file" (printf "%s/admin/secret" $secrets) -}}
{{- end -}}
{{- if not (and .Values.kek.existingSecret .Values.admin.existingSecret) -}}
{{- $_ := set $bootstrap "generate" true -}}
{{- end -}}
{{- $_ := set $settings "bootstrap" $bootstrap -}}
{{- if .Values.policy.existingConfigMap -}}
{{- $_ := set $settings "policy" (dict "source" "file" "path" "/run/authsvc/policy/policy.yaml") -}}
{{- end -}}
{{- mergeOverwrite $settings (deepCopy .Values.config) | toJson -}}
{{- end -}}

{{- define "authsvc.toml" -}}
{{- include "authsvc.tomlSection" (dict "path" "" "section" (include "authsvc.settings" . | fromJson)) | trim -}}
{{- end -}}

{{/* A section as lines `a.b = value`, sorted by name. */}}
{{- define "authsvc.tomlSection" -}}
{{- $path := .path -}}
{{- range $name, $value := .section -}}
{{- if kindIs "map" $value -}}
{{- include "authsvc.tomlSection" (dict "path" (printf "%s%s." $path $name) "section" $value) -}}
{{- else if not (kindIs "invalid" $value) }}
{{ $path }}{{ $name }} = {{ include "authsvc.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Helm's numbers are floats: a whole one is written as such. A text in JSON is one in TOML too. */}}
{{- define "authsvc.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- $rest := false -}}{{- range $name, $value := . -}}{{- if $rest }}, {{ end -}}{{- $rest = true }} {{ $name }} = {{ include "authsvc.tomlValue" $value -}}{{- end }} }
{{- else if kindIs "slice" . -}}
[{{- $rest := false -}}{{- range . -}}{{- if $rest }}, {{ end -}}{{- $rest = true -}}{{ include "authsvc.tomlValue" . }}{{- end -}}]
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* What must be given and is not; every fault at once, each with the command that mends it. */}}
{{- define "authsvc.given" -}}
{{- $faults := list -}}
{{- $secret := printf "kubectl --namespace %s create secret generic" .Release.Namespace -}}
{{- $name := include "authsvc.fullname" . -}}
{{- $kek := printf "openssl rand -hex 32 | %s %s-kek --from-file=kek=/dev/stdin" $secret $name -}}
{{- $admin := printf "openssl rand -hex 32 | %s %s-admin --from-file=secret=/dev/stdin" $secret $name -}}
{{- $record := printf "%s %s-record --from-file=password=FILE" $secret $name -}}
{{- $counters := printf "%s %s-counters --from-file=password=FILE" $secret $name -}}
{{- with .Values -}}
{{- if include "authsvc.shared" $ -}}
  {{- if not .record.url -}}
    {{- $faults = append $faults "record.url: more than one process cannot share a file; name a PostgreSQL: --set record.url=postgresql://authsvc@HOST/authsvc" -}}
  {{- end -}}
  {{- if not .counters.url -}}
    {{- $faults = append $faults "counters.url: each process would count for itself; name a Redis: --set counters.url=rediss://authsvc@HOST:6379" -}}
  {{- end -}}
  {{- if not .counters.existingSecret -}}
    {{- $faults = append $faults (printf "counters.existingSecret: the secret with the password of Redis: %s" $counters) -}}
  {{- end -}}
{{- end -}}
{{- if or .record.url (include "authsvc.shared" $) -}}
  {{- if not .record.existingSecret -}}
    {{- $faults = append $faults (printf "record.existingSecret: the secret with the password of PostgreSQL: %s" $record) -}}
  {{- end -}}
  {{- if not .kek.existingSecret -}}
    {{- $faults = append $faults (printf "kek.existingSecret: the secret with the key-encryption key of every replica: %s" $kek) -}}
  {{- end -}}
  {{- if not .admin.existingSecret -}}
    {{- $faults = append $faults (printf "admin.existingSecret: the secret with the administrator's secret: %s" $admin) -}}
  {{- end -}}
  {{- if eq .tls.mode "self_signed" -}}
    {{- $faults = append $faults (printf "tls.mode: self_signed is for one replica with a volume; set it to files with tls.existingSecret (kubectl --namespace %s create secret tls %s-tls --cert=FILE --key=FILE) or tls.certManager, or to mesh" $.Release.Namespace $name) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq .tls.mode "files") (not .tls.existingSecret) (not .tls.certManager.enabled) -}}
  {{- $faults = append $faults (printf "tls.existingSecret: the secret with the certificate: kubectl --namespace %s create secret tls %s-tls --cert=FILE --key=FILE" $.Release.Namespace $name) -}}
{{- end -}}
{{- if and .tls.certManager.enabled (ne .tls.mode "files") -}}
  {{- $faults = append $faults "tls.certManager: goes with tls.mode files: --set tls.mode=files" -}}
{{- end -}}
{{- if and .tls.certManager.enabled (not .tls.certManager.issuerRef.name) -}}
  {{- $faults = append $faults "tls.certManager.issuerRef.name: the issuer: --set tls.certManager.issuerRef.name=NAME" -}}
{{- end -}}
{{- if and .tls.clientCa.existingSecret (not (include "authsvc.encrypted" $)) -}}
  {{- $faults = append $faults "tls.clientCa: goes with tls.mode files or self_signed" -}}
{{- end -}}
{{- if and .record.existingSecret (not .record.url) -}}
  {{- $faults = append $faults "record.existingSecret: goes with record.url: --set record.url=postgresql://authsvc@HOST/authsvc" -}}
{{- end -}}
{{- if and .counters.existingSecret (not .counters.url) -}}
  {{- $faults = append $faults "counters.existingSecret: goes with counters.url: --set counters.url=rediss://authsvc@HOST:6379" -}}
{{- end -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n\nThis release cannot start. Secrets are given, never made by the chart:\n\n  %s\n" (join "\n\n  " $faults)) -}}
{{- end -}}
{{- end -}}

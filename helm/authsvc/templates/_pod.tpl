{{/* What the init container and the server share: configuration, secrets, and somewhere to write. */}}
{{- define "authsvc.secretVolumes" -}}
{{- $found := list -}}
{{- with .Values -}}
{{- if .record.existingSecret -}}
{{- $found = append $found (list "record" .record.existingSecret .record.key "password") -}}
{{- end -}}
{{- if .record.ca.existingSecret -}}
{{- $found = append $found (list "record-ca" .record.ca.existingSecret .record.ca.key "ca.crt") -}}
{{- end -}}
{{- if .counters.existingSecret -}}
{{- $found = append $found (list "counters" .counters.existingSecret .counters.key "password") -}}
{{- end -}}
{{- if .counters.sentinel.existingSecret -}}
{{- $found = append $found (list "sentinel" .counters.sentinel.existingSecret .counters.sentinel.key "password") -}}
{{- end -}}
{{- if .counters.ca.existingSecret -}}
{{- $found = append $found (list "counters-ca" .counters.ca.existingSecret .counters.ca.key "ca.crt") -}}
{{- end -}}
{{- if .kek.existingSecret -}}
{{- $found = append $found (list "kek" .kek.existingSecret .kek.key "kek") -}}
{{- end -}}
{{- if .admin.existingSecret -}}
{{- $found = append $found (list "admin" .admin.existingSecret .admin.key "secret") -}}
{{- end -}}
{{- if .tls.clientCa.existingSecret -}}
{{- $found = append $found (list "client-ca" .tls.clientCa.existingSecret .tls.clientCa.key "ca.crt") -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "authsvc.volumes" -}}
- name: config
  configMap:
    name: {{ include "authsvc.fullname" . }}
- name: data
  {{- if not (include "authsvc.ownVolume" .) }}
  emptyDir: {sizeLimit: {{ .Values.scratchSize }}}
  {{- else if .Values.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "authsvc.claim" . }}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.scratchSize }}}
{{- if .Values.policy.existingConfigMap }}
- name: policy
  configMap:
    name: {{ .Values.policy.existingConfigMap }}
    items: [{key: {{ .Values.policy.key | quote }}, path: policy.yaml}]
{{- end }}
{{- range include "authsvc.secretVolumes" . | fromJsonArray }}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 }}
    # Root's, readable by the pod's group and by nobody else: authsvc refuses keys that the world can read.
    defaultMode: 0440
    items: [{key: {{ index . 2 | quote }}, path: {{ index . 3 }}}]
{{- end }}
{{- if eq .Values.tls.mode "files" }}
- name: tls
  secret:
    secretName: {{ include "authsvc.tlsSecret" . }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What `migrate` needs: where the record is, and the way in; no other secret. */}}
{{- define "authsvc.recordMounts" -}}
- {name: config, mountPath: /etc/authsvc, readOnly: true}
- {name: data, mountPath: /var/lib/authsvc}
- {name: tmp, mountPath: /tmp}
{{- range include "authsvc.secretVolumes" . | fromJsonArray }}
{{- if hasPrefix "record" (index . 0) }}
- {name: {{ index . 0 }}, mountPath: /run/secrets/authsvc/{{ index . 0 }}, readOnly: true}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "authsvc.mounts" -}}
{{ include "authsvc.recordMounts" . }}
{{- range include "authsvc.secretVolumes" . | fromJsonArray }}
{{- if not (hasPrefix "record" (index . 0)) }}
- {name: {{ index . 0 }}, mountPath: /run/secrets/authsvc/{{ index . 0 }}, readOnly: true}
{{- end }}
{{- end }}
{{- if eq .Values.tls.mode "files" }}
- {name: tls, mountPath: /run/secrets/authsvc/tls, readOnly: true}
{{- end }}
{{- if .Values.policy.existingConfigMap }}
- {name: policy, mountPath: /run/authsvc/policy, readOnly: true}
{{- end }}
{{- end -}}

{{- define "authsvc.env" -}}
- name: AUTHSVC_DATA_DIR
  value: /var/lib/authsvc/data
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /*
What each component may do in Redis. A function runs with its caller's rights, so these are the commands and keys of the functions' bodies too;
FCALL itself wants to read and write every key it is given, hence a selector of its own that allows nothing but named functions.
A test runs every component under its user, and tries what each must not do.
*/}}
{{- define "continual.redis.rules" -}}
{{- $rules := dict
  "operator" (list "resetchannels -@all +ping +select +client|id +time +info +function|list +function|load"
    "~ctm-installation:* ~ctm:* +get +hget +hgetall +hset +hdel +set +del +unlink +exists +scan +xlen +xrange +xinfo|stream +xinfo|groups +xpending +xgroup|create"
    "(-@all ~ctm:* +fcall|continual_v1_route +fcall|continual_v1_configure +fcall|continual_v1_wipe +fcall|continual_v1_survey)")
  "inference" (list "resetchannels -@all +ping +select +client|id +client|unblock +time"
    "%R~ctm:{*}:routing %R~ctm:{*}:serve +get +hget"
    "(-@all ~ctm:{*}:requests +xreadgroup +xack +xpending +xclaim +xinfo|stream +xinfo|groups +xrange +exists +xgroup|delconsumer)"
    "(-@all ~ctm:{*}:answers:* +hset +hsetnx +expire)"
    "(-@all ~ctm:{*}:predictions ~ctm:{*}:dead +xadd)"
    "(-@all ~ctm:{*}:alarms +hincrby)"
    "(-@all ~ctm:* +fcall|continual_v1_commit +fcall|continual_v1_renew +fcall|continual_v1_claim +fcall|continual_v1_forget +fcall|continual_v1_dead)")
  "evaluator" (list "resetchannels -@all +ping +select +time +info +multi +exec +discard +watch +unwatch"
    "~ctm:{*}:evaluator* ~ctm:{*}:report ~ctm:{*}:routing ~ctm:{*}:serve ~ctm:{*}:alarms %R~ctm:{*}:config %R~ctm:{*}:answers:* %R~ctm:{*}:seen:*"
    "+get +set +incr +del +exists +mget +hget +hgetall +hkeys +hexists +hmget +hset +hdel +hincrby"
    "(-@all ~ctm:{*}:requests ~ctm:{*}:predictions ~ctm:{*}:labels ~ctm:{*}:dead +xrange +xread +xlen +xadd +xdel +xtrim +xpending +xinfo|stream +xinfo|groups +xinfo|consumers +xgroup|create +xgroup|destroy +xgroup|setid +xgroup|delconsumer +memory|usage +exists)"
    "(-@all ~ctm:* +fcall|continual_v1_reap +fcall|continual_v1_survey +fcall|continual_v1_forget)")
  "trainer" (list "resetchannels -@all +ping +select"
    "~ctm:{*}:progress:* +hset +expire")
  "gateway" (list "resetchannels -@all +ping +select +client|id +time"
    "%R~ctm:{*}:routing %R~ctm:{*}:serve %R~ctm:{*}:report %R~ctm:{*}:config %R~ctm:{*}:alarms %R~ctm:{*}:progress:* +get +hget +hmget +hgetall +exists"
    "(-@all ~ctm:{*}:answers:* +hget +hmget +hgetall +hdel)"
    "(-@all ~ctm:{*}:seen:* +get +mget +set)"
    "(-@all ~ctm:{*}:requests ~ctm:{*}:labels ~ctm:{*}:predictions ~ctm:{*}:dead +xadd +xrange +xrevrange +xread +xlen +xinfo|stream +xinfo|groups +xpending +exists)"
    "(-@all ~ctm:{*}:dead +xdel)"
    "(-@all ~ctm:* +fcall|continual_v1_enqueue +fcall|continual_v1_replay +fcall|continual_v1_survey)")
}}
{{- index $rules . | join " " }}
{{- end }}

{{- define "continual.redis.rulesDigest" -}}
{{- $all := list }}
{{- range $component := list "operator" "inference" "evaluator" "trainer" "gateway" }}
{{- $all = append $all (printf "%s %s" (include "continual.redis.username" (list $ $component)) (include "continual.redis.rules" $component)) }}
{{- end }}
{{- join "\n" $all | sha256sum | trunc 16 }}
{{- end }}

{{- /*
What each component may do in Redis. A function runs with its caller's rights, so these are the commands and keys of the functions' bodies too;
FCALL itself wants to read and write every key it is given, hence a selector of its own that allows no other command: what the function
then does is judged by the other selectors, command by command.
A test runs every component under its user, and tries what each must not do.
*/}}
{{- define "continual.redis.rules" -}}
{{- $rules := dict
  "operator" (list "resetchannels -@all +ping +select +client|id +time +info +scan +function|list +function|load"
    "~ctm-installation:* +hset +hgetall +hdel +hexists"
    "(-@all %R~ctm:{*}:* +get +hget +hgetall +exists +xrange +xpending +xinfo|stream +xinfo|groups)"
    "(-@all ~ctm:{*}:routing ~ctm:{*}:config +set)"
    "(-@all ~ctm:{*}:serve +hset)"
    "(-@all ~ctm:{*}:requests +xgroup|create)"
    "(-@all ~ctm:{*}:* +del +unlink)"
    "(-@all ~ctm:{*}:* +fcall)")
  "inference" (list "resetchannels -@all +ping +select +client|id +client|unblock +time"
    "%R~ctm:{*}:routing %R~ctm:{*}:serve +get +hget"
    "(-@all ~ctm:{*}:requests +xreadgroup +xack +xpending +xclaim +xinfo|stream +xinfo|groups +xrange +exists +xgroup|delconsumer)"
    "(-@all ~ctm:{*}:answers:* +hset +hsetnx +expire)"
    "(-@all ~ctm:{*}:predictions ~ctm:{*}:dead +xadd)"
    "(-@all ~ctm:{*}:alarms +hincrby)"
    "(-@all ~ctm:{*}:* +fcall)")
  "evaluator" (list "resetchannels -@all +ping +select +time +info +multi +exec +discard +unwatch"
    "~ctm:{*}:evaluator* +watch +get +set +incrby +del +hgetall +hset +hdel"
    "(-@all ~ctm:{*}:report +hget +hset)"
    "(-@all ~ctm:{*}:routing +get +set)"
    "(-@all ~ctm:{*}:serve +hget +hkeys +hset +hdel)"
    "(-@all ~ctm:{*}:alarms +hgetall +hincrby)"
    "(-@all ~ctm:{*}:history* +xadd +del)"
    "(-@all %R~ctm:{*}:config %R~ctm:{*}:seen:* +get +mget)"
    "(-@all %R~ctm:{*}:answers:* +hmget +hexists)"
    "(-@all ~ctm:{*}:requests +exists +xlen +xrange +xadd +xtrim +xpending +xinfo|stream +xinfo|groups +xinfo|consumers +xgroup|create +xgroup|destroy +xgroup|setid +xgroup|delconsumer +memory|usage)"
    "(-@all ~ctm:{*}:predictions ~ctm:{*}:labels +xrange +xtrim)"
    "(-@all ~ctm:{*}:dead +xlen +xrange +xadd +xdel)"
    "(-@all ~ctm:{*}:* +fcall)")
  "trainer" (list "resetchannels -@all +ping +select"
    "~ctm:{*}:progress:* +hset +expire")
  "gateway" (list "resetchannels -@all +ping +select +client|id +time +multi +exec"
    "%R~ctm:{*}:routing %R~ctm:{*}:serve %R~ctm:{*}:report %R~ctm:{*}:config %R~ctm:{*}:alarms %R~ctm:{*}:progress:* +get +hget +hmget +hgetall +exists"
    "(-@all ~ctm:{*}:answers:* +hget +hmget +hgetall +hexists +hrandfield +hdel)"
    "(-@all ~ctm:{*}:seen:* +get +mget +set)"
    "(-@all ~ctm:ticket:* +set)"
    "(-@all ~ctm:{*}:notices +hsetnx +exists +expire)"
    "(-@all %R~ctm:{*}:history* +xrange +xrevrange)"
    "(-@all ~ctm:{*}:audit +xadd +xrevrange)"
    "(-@all ~ctm:{*}:corrections ~ctm:{*}:correction:* ~ctm:{*}:ingested ~ctm:{*}:ingested:rows ~ctm:{*}:labelled +hset +hget +hmget +hgetall +hvals +hdel +expire +del +zadd +zrem +zrange +zrevrange +zcard +zmscore +zremrangebyscore +zremrangebyrank)"
    "(-@all ~ctm:{*}:requests ~ctm:{*}:labels ~ctm:{*}:predictions ~ctm:{*}:dead +xrange +xrevrange +xread +xlen +xinfo|stream +xinfo|groups +exists)"
    "(-@all ~ctm:{*}:requests ~ctm:{*}:labels +xadd)"
    "(-@all ~ctm:{*}:dead +xdel)"
    "(-@all ~ctm:{*}:* +fcall)")
}}
{{- index $rules . | join " " }}
{{- end }}

{{- /*
Nobody can be the default user: it is off. It has every right because Redis itself replays the append-only file under its name: without rights it
refuses every transaction in the file at the next start, and all that functions wrote is lost.
*/}}
{{- define "continual.redis.everybody" -}}
user default off ~* &* +@all
user probe on nopass resetkeys resetchannels -@all +ping
{{- end }}

{{- define "continual.redis.rulesDigest" -}}
{{- $all := list (include "continual.redis.everybody" .) }}
{{- range $component := list "operator" "inference" "evaluator" "trainer" "gateway" }}
{{- $all = append $all (printf "%s %s" (include "continual.redis.username" (list $ $component)) (include "continual.redis.rules" $component)) }}
{{- end }}
{{- join "\n" $all | sha256sum | trunc 16 }}
{{- end }}

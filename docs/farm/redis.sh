# Starts redis-server (7.2 or newer, or Valkey) with the stream's users: `sh redis.sh OPTION...`.
# docker-compose.yml and kubernetes/servers.yaml do. Passwords come from the environment, consist of
# letters and digits, and go by a file of the container's own, since others can read command lines.
#
#   default    whoever administers Redis: everything. No service of the stream has its password.
#   loader     takes spectra to load, puts flux into the array store.
#   inference  takes flux, sends labels.
#   ledger     recorder, dispatcher, `watch` and all commands that write to the database.
#   watcher    `status`, `metrics` and Flower: looks, and asks workers.
#
# Both servers have the same users; the broker's URL has to end in /0, which Celery's channels bear.
# loader and inference have one password: they run on the same hosts. A part in parentheses allows
# its commands on its keys (% R reads, W writes) and channels alone. docs/reliability.md says what
# each can still do.
set -eu
umask 077

connect='+ping +select +multi +exec +discard +unwatch +client|setinfo +client|setname +script|load +script|exists'
# Celery's questions to workers and the answers; whoever asks also clears away what others left.
ask='(%RW~*celery.pidbox* %RW~_kombu.binding*.celeryev %RW~_kombu.binding_deadlines
 +lpush +brpop +llen +sadd +srem +smembers +zadd +zrem +zrangebyscore +exists +pexpire +del +time
 +evalsha) (&/0.celery.pidbox +publish +psubscribe +punsubscribe)'
# What a worker holds lies with that of all others, and any of them gives back a dead one's.
work='(&/0.celeryev/* +publish)
 (%RW~_kombu.binding*.load.* %RW~_kombu.binding*.infer.* %RW~_kombu.binding*.record*
 +sadd +smembers)
 (%W~load.* %W~infer.* %W~record* +lpush +rpush +llen)
 (%RW~unacked %RW~unacked_index +watch +hset +hget +hdel +zadd +zrem +zrange)
 (%RW~unacked_mutex +set +get +del +evalsha)
 (%W~astronn-stream:set-aside +lpush +ltrim) (%W~astronn-stream:probe +setrange)
 (%RW~astronn-stream:worker:* %RW~astronn-stream:spectra* %RW~astronn-stream:strangers
 +set +hincrby +incrby +expire)'
look='+scan (%R~load.* %R~infer.* %R~record* %R~unacked +llen +hlen)
 (%R~astronn-stream:dispatcher %R~astronn-stream:weights %R~astronn-stream:worker:*
 %R~astronn-stream:spectra* %R~astronn-stream:strangers %R~astronn-stream:set-aside
 +get +mget +hgetall +llen +lrange) (%W~astronn-stream:probe +setrange)'

user() {
    name=$1
    password=$2
    shift 2
    echo "user $name on >$password resetchannels $connect $*" | tr '\n' ' '
    echo
}

{
    echo "requirepass ${REDISCLI_AUTH:?}"
    user loader "${REDIS_WORKER_PASSWORD:?}" "$ask $work" \
        '(%RW~load.* +brpop)' \
        '(%W~astronn-stream:flux:* +set)' \
        '(%RW~astronn-stream:reading:* +incrby +expire +del)'
    user inference "${REDIS_WORKER_PASSWORD:?}" "$ask $work" \
        '(%RW~infer.* +brpop)' \
        '(%RW~astronn-stream:flux:* +get +set)'
    user ledger "${REDIS_LEDGER_PASSWORD:?}" "$ask $work $look" \
        '(%RW~record* +brpop) (%R~load.* %R~infer.* %R~record* +lrange) (%R~unacked +hvals)' \
        '(%RW~astronn-stream:broker +set +get)' \
        '(%W~astronn-stream:dispatcher %W~astronn-stream:weights +set)' \
        '(%W~astronn-stream:set-aside +del)'
    user watcher "${REDIS_WATCHER_PASSWORD:?}" "$ask $look" \
        '(%RW~celeryev.* +llen +exists +pexpire +del)' \
        '(&/0.celeryev/* +psubscribe +punsubscribe)'
} > "${TMPDIR:-/tmp}/redis.conf"
exec redis-server "${TMPDIR:-/tmp}/redis.conf" "$@"

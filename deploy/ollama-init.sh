#!/bin/sh
# Waits for Ollama and pulls the models that are missing: OLLAMA_MODEL (phi3:mini) and what OLLAMA_MODELS names,
# separated by blanks or commas. What is there stays as it is. Ends with 0 only when every model is there.
set -u

url=${OLLAMA_INIT_URL:-${OLLAMA_URL:-http://127.0.0.1:11434}}
wait_s=${OLLAMA_WAIT_S:-120}
models=$(printf '%s %s' "${OLLAMA_MODEL:-phi3:mini}" "${OLLAMA_MODELS:-}" | tr ',\n\t' '   ')

say() { printf 'ollama-init: %s\n' "$*" >&2; }

case $wait_s in '' | *[!0-9]*) say "OLLAMA_WAIT_S must be a number of seconds, not '$wait_s'"; exit 2 ;; esac
for model in $models; do
  case $model in *[!A-Za-z0-9._:/-]*) say "'$model' is no model's name"; exit 2 ;; esac
done

waited=0
until curl -fsS --max-time 5 "$url/api/version" >/dev/null 2>&1; do
  [ "$waited" -ge "$wait_s" ] && { say "no Ollama answers at $url after $wait_s s"; exit 1; }
  sleep 1
  waited=$((waited + 1))
done

is_there() { # a name without a tag means `latest`
  case ${1##*/} in *:*) name=$1 ;; *) name=$1:latest ;; esac
  curl -fsS --max-time 30 "$url/api/tags" | tr -d ' ' | grep -qF "\"name\":\"$name\""
}

pull() {
  said=''
  # The server answers 200 at once and tells of a failure in a later line: only a last line of success counts.
  curl -fsS --no-buffer --max-time 86400 -H 'Content-Type: application/json' \
    -d "{\"model\":\"$1\",\"stream\":true}" "$url/api/pull" | {
    while IFS= read -r line; do
      case $(printf '%s' "$line" | tr -d ' ') in
        *'"error":'*) say "$1: $line"; exit 1 ;;
        *'"status":"success"'*) exit 0 ;;
      esac
      status=$(printf '%s' "$line" | sed -n 's/.*"status": *"\([^"]*\)".*/\1/p')
      [ "$status" != "$said" ] && [ -n "$status" ] && say "$1: $status"
      said=$status
    done
    exit 1
  }
}

failed=0
for model in $models; do
  if is_there "$model"; then
    say "$model is there"
  elif say "$model is pulled" && pull "$model" && is_there "$model"; then
    say "$model is there now"
  else
    say "$model could not be pulled"
    failed=1
  fi
done
exit "$failed"

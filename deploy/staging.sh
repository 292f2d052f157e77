#!/usr/bin/env bash
# Brings the gateways of one host to an image, one by one behind nginx, so that nobody notices.
#
#   deploy/staging.sh [--dry-run] IMAGE
#
# Migrates first. Then, for each instance: takes it out of nginx, stops it, starts the image in its place, waits until
# /health/ready is 200, puts it back. If one does not get there, it and those before it go back to the image they ran before;
# what was migrated stays, for the version before must run over the newer schema anyway (docs/deployment.md).
#
# Ends with 0: done; 1: nothing changed, or all is as before; 2: it could not be made as before, see what it says.
set -euo pipefail

INSTANCES=${INSTANCES:-8001 8002}                        # ports on the loopback, an instance each; two or more
ENV_FILE=${ENV_FILE:-gateway.env}                        # the gateway's settings, NAME=VALUE a line, for docker run
UPSTREAM_FILE=${UPSTREAM_FILE:-upstream/instances.conf}  # what nginx includes; written here
RELOAD=${RELOAD:-docker exec gateway-nginx nginx -s reload}
READY_SECONDS=${READY_SECONDS:-60}                       # that a new instance has to become ready
ROLLBACK_SECONDS=${ROLLBACK_SECONDS:-60}                 # and an old one, put back
STOP_SECONDS=${STOP_SECONDS:-30}                         # above SHUTDOWN_DRAIN_SECONDS and SHUTDOWN_TIMEOUT_SECONDS together

tell() {
	printf 'staging: %s\n' "$*" >&2
}

refuse() {
	tell "$@"
	exit 1
}

# A `return` always says what: within a trap, a bare one gives the status of what the signal interrupted.

# Everything that changes something goes through here: --dry-run prints it instead.
run() {
	if [[ $dry_run ]]; then
		printf '+ %s\n' "$*"
	else
		"$@"
	fi
}

# --- the engine ------------------------------------------------------------------------------------------------------------

# The image that an instance runs, by its id, for a tag may have moved; empty where there is none.
image_of() {
	docker inspect --format '{{.Image}}' "gateway-$1" 2>/dev/null || true
}

is_running() {
	[[ $(docker inspect --format '{{.State.Running}}' "gateway-$1" 2>/dev/null) == true ]]
}

hardened=(--network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)

migrate() {
	run docker run --rm "${hardened[@]}" --env-file "$ENV_FILE" "$1" migrate up
}

# Without a restart policy until it is ready, so that one that dies is seen to be dead.
start() {
	run docker run --detach --name "gateway-$1" "${hardened[@]}" --env-file "$ENV_FILE" \
		--env HOST=127.0.0.1 --env "PORT=$1" --env TRUSTED_PROXIES=127.0.0.1 "$2" serve >&3
}

stop() {
	if [[ $dry_run || $(image_of "$1") ]]; then
		run docker stop --time "$STOP_SECONDS" "gateway-$1" >&3 || true # it may be dead already
		run docker rm --force "gateway-$1" >&3
	fi
}

keep() {
	run docker update --restart unless-stopped "gateway-$1" >&3
}

# --- nginx -----------------------------------------------------------------------------------------------------------------

# A line for each instance. Those in $out, " 8001 8002 ", get no requests.
route() {
	local port lines='# Written by deploy/staging.sh.'$'\n'
	for port in "${ports[@]}"; do
		lines+="server 127.0.0.1:$port max_fails=3 fail_timeout=5s"
		[[ $out == *" $port "* ]] && lines+=" down"
		lines+=";"$'\n'
	done
	if [[ $dry_run ]]; then
		printf '+ write %s, without:%s\n' "$UPSTREAM_FILE" "${out% }"
	else
		# nginx never reads half a file
		printf '%s' "$lines" >"$UPSTREAM_FILE.new" && mv "$UPSTREAM_FILE.new" "$UPSTREAM_FILE" || return 1
	fi
	# shellcheck disable=SC2086 # a command and its arguments
	run $RELOAD
}

# A worker of nginx that read the file before may still send it a request: the stopped gateway serves on for
# SHUTDOWN_DRAIN_SECONDS, which is for that.
take_out() {
	out+="$1 "
	route
}

put_back() {
	out=${out/ $1 / }
	route
}

# --- one instance ----------------------------------------------------------------------------------------------------------

# Until it is ready, dead, or out of time.
await_ready() {
	local end=$((SECONDS + $2))
	if [[ $dry_run ]]; then
		printf '+ wait up to %s s for http://127.0.0.1:%s/health/ready\n' "$2" "$1"
		return 0
	fi
	while ((SECONDS <= end)); do
		if curl --fail --silent --noproxy '*' --max-time 5 --output /dev/null "http://127.0.0.1:$1/health/ready"; then
			return 0
		fi
		if ! is_running "$1"; then
			tell "gateway-$1 has ended:"
			docker logs --tail 20 "gateway-$1" >&2 || true
			return 1
		fi
		sleep 0.2
	done
	tell "gateway-$1 was not ready after $2 s"
	docker logs --tail 20 "gateway-$1" >&2 || true
	return 1
}

# From what it runs to an image, within a time. Out of nginx meanwhile, and for good where it does not become ready.
replace() {
	[[ $out == *" $1 "* ]] || take_out "$1" || return 1
	stop "$1" && start "$1" "$2" && await_ready "$1" "$3" && keep "$1" && put_back "$1"
}

roll_back() {
	local port status=1
	for port in "$@"; do
		if [[ ! ${before[$port]} ]]; then
			tell "gateway-$port ran nothing before: it is taken away"
			stop "$port"
		elif replace "$port" "${before[$port]}" "$ROLLBACK_SECONDS"; then
			tell "gateway-$port runs ${before[$port]} again"
		else
			tell "gateway-$port could not be put back: it gets no requests"
			status=2
		fi
	done
	exit "$status"
}

# --- all of them -----------------------------------------------------------------------------------------------------------

dry_run=
if [[ ${1:-} == --dry-run ]]; then
	dry_run=yes
	shift
fi
[[ $# -eq 1 && $1 != -* && $1 ]] || refuse "usage: staging.sh [--dry-run] IMAGE"
image=$1
# What docker says of what it did, ids and names, is worth nothing; what --dry-run says in its place is.
if [[ $dry_run ]]; then exec 3>&1; else exec 3>/dev/null; fi

read -ra ports <<<"$INSTANCES"
((${#ports[@]} >= 2)) || refuse "INSTANCES: held \"$INSTANCES\"; takes two ports or more, for one alone cannot be replaced unnoticed"
for port in "${ports[@]}"; do
	[[ $port =~ ^[1-9][0-9]{0,4}$ ]] || refuse "INSTANCES: held \"$INSTANCES\"; takes ports, such as \"8001 8002\""
done
for name in READY_SECONDS ROLLBACK_SECONDS STOP_SECONDS; do
	[[ ${!name} =~ ^[0-9]{1,4}$ ]] || refuse "$name: held \"${!name}\"; takes whole seconds"
done
[[ -r $ENV_FILE ]] || refuse "ENV_FILE: $ENV_FILE cannot be read"
grep --quiet '^REDIS_URL=.' "$ENV_FILE" || refuse "ENV_FILE: $ENV_FILE has no REDIS_URL; each instance would cache for itself, and answer what another made old"
[[ -d $(dirname "$UPSTREAM_FILE") ]] || refuse "UPSTREAM_FILE: $(dirname "$UPSTREAM_FILE") is no directory"
for command in docker curl flock; do
	command -v "$command" >/dev/null || refuse "$command is not installed"
done

if [[ ! $dry_run ]]; then
	exec 9>"$UPSTREAM_FILE.lock"
	flock --nonblock 9 || refuse "another run is under way"
fi

declare -A before
out=' '
for port in "${ports[@]}"; do
	before[$port]=$(image_of "$port")
	[[ ${before[$port]} ]] || out+="$port " # what does not run gets no requests
done

migrate "$image" || refuse "the migration failed: nothing was changed"

done_so_far=()
trap 'trap - INT TERM; tell "stopped: going back"; roll_back "${done_so_far[@]}"' INT TERM
for port in "${ports[@]}"; do
	done_so_far=("$port" "${done_so_far[@]}")
	if ! replace "$port" "$image" "$READY_SECONDS"; then
		tell "$image does not work as gateway-$port: going back"
		roll_back "${done_so_far[@]}"
	fi
	tell "gateway-$port runs $image"
done

#!/bin/sh
# Writes .env with fresh random passwords for compose.yaml, unless there is one already.
set -eu
cd "$(dirname "$0")/.."
[ ! -e .env ] || { echo ".env exists; left as it is"; exit 0; }
umask 077
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
{
    echo "# Made by deploy/new_env.sh. Hexadecimal, because some of them are put into addresses."
    for name in RABBITMQ_PASSWORD POSTGRES_PASSWORD REDIS_PASSWORD MINIO_PASSWORD; do
        echo "$name=$(secret)"
    done
} > .env
echo "wrote .env"

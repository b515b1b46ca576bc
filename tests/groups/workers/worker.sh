#!/usr/bin/env bash
# A worker with curl. Usage: worker.sh NAME PORT MAX LOG (it has one job at a time)
name=$1 log=$4
room="http://127.0.0.1:$2/jobs?group=g"
while true; do
  echo "$name open" >> "$log"
  head=$(curl -s -o /dev/null -D - "$room&wait=2&ack=${ACK:-20}&tries=50") || { sleep 0.1; continue; }
  case $head in *" 200 "*) ;; *) continue ;; esac
  field() { printf '%s\n' "$head" | tr -d '\r' | sed -n "s/^$1: //ip"; }
  id=$(field Rawws-Id) try=$(field Rawws-Try) lease=$(field Rawws-Lease)
  echo "$name get $id $try" >> "$log"
  echo "$name end $id $try" >> "$log"
  curl -s -o /dev/null -X POST "$room&ack=$id&lease=$lease"
done

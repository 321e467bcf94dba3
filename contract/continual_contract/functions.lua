#!lua name=continual_v1
-- The functions of the stream protocol: every change that must be atomic happens in here, and nowhere else.
--
-- Two fences stand before every published prediction: XACK must have returned 1 (somebody is still waiting for this entry in this
-- group) and HSETNX of the request id must have returned 1 (nobody answered it under another group or another entry). A third check,
-- `serve[group] = caller's version`, keeps a version that was replaced from publishing: XACK cannot tell a zombie from its substitute.
--
-- All keys of one model share a hash tag, so keys derived from a prefix in ARGV lie in the slot of the declared ones.
-- An empty Lua table is written by cjson as {}: empty lists are left out of `routing`.
-- Error replies begin with one code word; continual_contract/functions.py turns them into exceptions.

local HOUR_MS = 3600000
local BASIS_POINTS = 10000
local UNSAMPLED = '-'
local DEAD = '!'
local MAX_SEQUENCE = '18446744073709551615'
local DEAD_LETTERS_KEPT = 10000
local PAGE = 100
local TRIM_LIMIT = 10000

-- Small parts -----------------------------------------------------------------------------------------------------------------

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function compare(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if a_ms ~= b_ms then return a_ms < b_ms and -1 or 1 end
  if a_seq ~= b_seq then return a_seq < b_seq and -1 or 1 end
  return 0
end

local function whole(number) return string.format('%.0f', number) end

-- The largest id below this one.
local function previous(id)
  local ms, seq = parts(id)
  if seq > 0 then return whole(ms) .. '-' .. whole(seq - 1) end
  if ms > 0 then return whole(ms - 1) .. '-' .. MAX_SEQUENCE end
  return '0-0'
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A flat reply (name, value, name, value …) as a table.
local function pairs_of(flat)
  local out = {}
  for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
  return out
end

local function refusal(code, text) return redis.error_reply(code .. ' ' .. text) end

local function decode_routing(key)
  local raw = redis.call('GET', key)
  if raw then return cjson.decode(raw) end
end

local function stream_info(key)
  if redis.call('EXISTS', key) == 0 then return nil end
  return pairs_of(redis.call('XINFO', 'STREAM', key))
end

-- Changes with every start of the server.
local function run_id() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') end

-- name → XINFO GROUPS row, of all groups of the stream.
local function group_infos(key)
  local out = {}
  if redis.call('EXISTS', key) == 0 then return out end
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local info = pairs_of(row)
    out[info.name] = info
  end
  return out
end

-- The bucket of a request comes from its id, never from a clock.
local function bucket_of(prefix, request_id)
  local ms = parts(request_id)
  return prefix .. whole(math.floor(ms / HOUR_MS))
end

-- nil when `version` works in `group`, else the error to return.
local function fence(serve_key, group, version)
  local served_by = redis.call('HGET', serve_key, group)
  if served_by == version then return nil end
  return refusal('FENCED', group .. ' is served by ' .. (served_by or 'nobody') .. ', not by ' .. version)
end

local function slice(list, first, last)
  local out = {}
  for i = first, last do out[#out + 1] = list[i] end
  return out
end

local function epoch_of(document, id)
  for i = #document.epochs, 1, -1 do
    if compare(document.epochs[i].after, id) < 0 then return document.epochs[i] end
  end
end

local function has_share(epoch, group)
  for _, share in ipairs(epoch and epoch.shares or {}) do
    if share[1] == group and share[2] > 0 then return true end
  end
  return false
end

-- enqueue ---------------------------------------------------------------------------------------------------------------------

-- Entries the group has still to be given. Redis' lag is unknown for a group without a read counter, too large after a restart (the
-- append-only file does not keep the counter: see `anchor`), and keeps for ever what was lost before the group read it.
local function undelivered(info, stream, lost)
  if compare(info['last-delivered-id'], stream['last-generated-id']) >= 0 then return 0 end
  if type(info.lag) ~= 'number' then return stream.length end
  return math.max(0, math.min(info.lag - (lost or 0), stream.length))
end

-- Backlog of the owning group that is furthest behind; a shadow group never pushes back. The routing table is decoded only when
-- some group is over the limit: the usual call costs one XINFO.
local function backlog(requests, routing, limit)
  local groups, most = group_infos(requests), -1
  for _, info in pairs(groups) do
    most = math.max(most, (type(info.lag) == 'number' and info.lag or limit) + info.pending)
  end
  if most < limit and most >= 0 then return most end
  local document, stream = decode_routing(routing), stream_info(requests)
  local epoch = document and document.epochs[#document.epochs]
  if not epoch or not stream then return redis.call('XLEN', requests) end
  local worst = 0
  for _, share in ipairs(epoch.shares) do
    local info = groups[share[1]]
    if info and share[2] > 0 then
      worst = math.max(worst, undelivered(info, stream, document.groups[share[1]].lost) + info.pending)
    end
  end
  return worst
end

-- KEYS requests routing [seen] ; ARGV backlog_limit seen_ttl_seconds field value …   → {id, 1 if new else 0}
local function enqueue(keys, args)
  local seen = keys[3]
  if seen then
    local known = redis.call('GET', seen)
    if known then return { known, 0 } end
  end
  local limit = tonumber(args[1])
  if limit > 0 then
    local waiting = backlog(keys[1], keys[2], limit)
    if waiting >= limit then return refusal('BACKLOG', whole(waiting) .. ' requests wait, limit ' .. whole(limit)) end
  end
  local id = redis.call('XADD', keys[1], '*', unpack(args, 3))
  if seen then redis.call('SET', seen, id, 'EX', args[2]) end
  return { id, 1 }
end

-- commit ----------------------------------------------------------------------------------------------------------------------

local SECTION_HEAD = 6

-- The head of a section of a commit: answers that differ in entry, class and confidence only.
local function section_of(keys, args, at, head)
  local renamed = args[at + 4] == '1'
  return {
    kind = args[at], role = args[at + 1], why = args[at + 2], bucket = keys[3 + tonumber(args[at + 3])],
    renamed = renamed, width = renamed and 4 or 3, count = tonumber(args[at + 5]),
    head = head.version .. ' ' .. head.digest .. ' ' .. args[at + 1] .. ' ' .. args[at + 2] .. ' ',
  }
end

-- One answered entry; returns 1 if a prediction was published. Stored: version, digest, role, why, confidence, us, class.
local function settle(keys, head, section, request, confidence, class)
  local answer = section.head .. confidence .. ' ' .. head.us .. ' ' .. class
  if section.kind == 's' then
    redis.call('HSET', section.bucket, request .. '/' .. head.version, answer)
    return 0
  end
  if redis.call('HSETNX', section.bucket, request, section.kind == 'u' and UNSAMPLED or answer) == 0 then return 0 end
  redis.call('XADD', keys[2], '*', 'r', request, 'v', head.version, 'dg', head.digest, 'role', section.role,
    'why', section.why, 'c', class, 'p', confidence, 'us', head.us, 't', head.time)
  return 1
end

-- Acknowledge what the group does not own; returns how many were still pending.
local function acknowledge(requests, group, args, first, count)
  local total, at, last = 0, first, first + count - 1
  while at <= last do
    local upto = math.min(at + 999, last)
    total = total + redis.call('XACK', requests, group, unpack(args, at, upto))
    at = upto + 1
  end
  return total
end

-- KEYS requests predictions serve answers… ; ARGV group version digest us ttl n_acks ack… then sections, each
-- kind role why bucket renamed n then n times (id confidence class), with a request id behind each where `renamed` is 1
-- kind: o = publish and store, u = publish, store the mark UNSAMPLED, s = shadow answer, never published
-- → {acknowledged, published, lost}; lost = answered entries that were no longer pending: somebody else settled them.
local function commit(keys, args)
  local group, acks = args[1], tonumber(args[6])
  local head = { version = args[2], digest = args[3], us = args[4] }
  local refused = fence(keys[3], group, head.version)
  if refused then return refused end
  local acknowledged, published, lost = acknowledge(keys[1], group, args, 7, acks), 0, 0
  head.time = whole(now_ms())
  local at = 7 + acks
  while at <= #args do
    local section = section_of(keys, args, at, head)
    local first = at + SECTION_HEAD
    at = first + section.count * section.width
    for i = first, at - 1, section.width do
      if redis.call('XACK', keys[1], group, args[i]) == 1 then
        acknowledged = acknowledged + 1
        published = published + settle(keys, head, section, section.renamed and args[i + 3] or args[i], args[i + 1], args[i + 2])
      else
        lost = lost + 1
      end
    end
  end
  for i = 4, #keys do redis.call('EXPIRE', keys[i], args[5]) end
  return { acknowledged, published, lost }
end

-- renew and claim: leases -----------------------------------------------------------------------------------------------------

-- KEYS requests serve ; ARGV group version consumer id…   → ids that are still the consumer's; their idle time starts again.
local function renew(keys, args)
  local group, consumer, held = args[1], args[3], {}
  local refused = fence(keys[2], group, args[2])
  if refused then return refused end
  for i = 4, #args do
    local row = redis.call('XPENDING', keys[1], group, args[i], args[i], 1, consumer)
    if #row == 1 then held[#held + 1] = args[i] end
  end
  -- JUSTID neither reads the entry nor counts a delivery.
  if #held > 0 then redis.call('XCLAIM', keys[1], group, consumer, 0, unpack(held), 'JUSTID') end
  return held
end

-- Pending rows a caller may take: idle ones of anybody, and, as an heir, all of consumers of other versions (they are gone).
local function claimable(keys, group, version, min_idle, count)
  local rows, start, own = {}, '-', version .. '/'
  for _ = 1, 50 do
    local page = redis.call('XPENDING', keys[1], group, start, '+', PAGE)
    for _, row in ipairs(page) do
      local foreign = string.sub(row[2], 1, #own) ~= own
      if row[3] >= min_idle or foreign then rows[#rows + 1] = row end
      if #rows >= count then return rows end
    end
    if #page < PAGE then return rows end
    start = '(' .. page[#page][1]
  end
  return rows
end

-- Rows delivered so often that they may have killed their worker are handed out one at a time, so that a good neighbour never
-- collects deliveries together with a poisonous one.
local function choose(rows, isolate_after)
  local together = {}
  for _, row in ipairs(rows) do
    if row[4] + 1 < isolate_after then together[#together + 1] = row end
  end
  if #together > 0 or #rows == 0 then return together end
  return { rows[1] }
end

-- KEYS requests serve alarms ; ARGV group version consumer min_idle_ms count isolate_after
-- → {{id, deliveries, fields}…, {ids whose entry is gone}}
local function claim(keys, args)
  local group, version, consumer = args[1], args[2], args[3]
  local refused = fence(keys[2], group, version)
  if refused then return refused end
  local rows = choose(claimable(keys, group, version, tonumber(args[4]), tonumber(args[5])), tonumber(args[6]))
  local taken, gone = {}, {}
  for _, row in ipairs(rows) do
    -- XCLAIM drops a pending id whose entry was deleted, and returns nothing for it.
    local entry = redis.call('XCLAIM', keys[1], group, consumer, 0, row[1])
    if entry[1] then taken[#taken + 1] = { row[1], row[4] + 1, entry[1][2] } else gone[#gone + 1] = row[1] end
  end
  if #gone > 0 then redis.call('HINCRBY', keys[3], 'lost_pending', #gone) end
  return { taken, gone }
end

-- KEYS requests ; ARGV group consumer   → 1 deleted, 0 kept because entries are still pending under its name
local function forget(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 or not group_infos(keys[1])[args[1]] then return 1 end
  if #redis.call('XPENDING', keys[1], args[1], '-', '+', 1, args[2]) > 0 then return 0 end
  redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], args[2])
  return 1
end

-- dead and replay -------------------------------------------------------------------------------------------------------------

local function prefixed(flat)
  local out = {}
  for i = 1, #flat, 2 do
    out[#out + 1] = 'x-' .. flat[i]
    out[#out + 1] = flat[i + 1]
  end
  return out
end

-- KEYS requests dead serve answers routing ; ARGV group version id request reason message ttl
-- → id of the dead letter, or '' when somebody else settled the entry. The mark DEAD counts as an answer in the audit.
local function dead(keys, args)
  local group, version, id, request = args[1], args[2], args[3], args[4]
  local refused = fence(keys[3], group, version)
  if refused then return refused end
  local document = decode_routing(keys[5])
  if not has_share(document and epoch_of(document, id), group) then
    return refusal('NOTOWNER', group .. ' has no share of ' .. id)
  end
  local row = redis.call('XPENDING', keys[1], group, id, id, 1)
  if redis.call('XACK', keys[1], group, id) == 0 then return '' end
  if redis.call('HSETNX', keys[4], request, DEAD) == 0 then return '' end
  redis.call('EXPIRE', keys[4], args[7])
  local entry = redis.call('XRANGE', keys[1], id, id)
  return redis.call('XADD', keys[2], '*', 'r', request, 'reason', args[5], 'message', args[6],
    'deliveries', row[1] and row[1][4] or 0, 'v', version, 't', whole(now_ms()), unpack(prefixed(entry[1] and entry[1][2] or {})))
end

-- The request's own fields, to be added again under its first id.
local function again(requests, request_id, flat)
  local fields = { 'o', request_id }
  for i = 1, #flat, 2 do
    if flat[i] ~= 'o' then
      fields[#fields + 1] = flat[i]
      fields[#fields + 1] = flat[i + 1]
    end
  end
  return redis.call('XADD', requests, '*', unpack(fields))
end

-- KEYS requests dead ; ARGV answers_prefix dead_entry_id   → id of the new entry
local function replay(keys, args)
  local letter = redis.call('XRANGE', keys[2], args[2], args[2])[1]
  if not letter then return refusal('NOTFOUND', 'no dead letter ' .. args[2]) end
  local request, fields = pairs_of(letter[2]).r, {}
  for i = 1, #letter[2], 2 do
    local name = letter[2][i]
    if string.sub(name, 1, 2) == 'x-' then
      fields[#fields + 1] = string.sub(name, 3)
      fields[#fields + 1] = letter[2][i + 1]
    end
  end
  if #fields == 0 then return refusal('NOTFOUND', 'dead letter ' .. args[2] .. ' holds no request: its entry was gone') end
  local bucket = bucket_of(args[1], request)
  if redis.call('HGET', bucket, request) == DEAD then redis.call('HDEL', bucket, request) end
  local id = again(keys[1], request, fields)
  redis.call('XDEL', keys[2], args[2])
  return id
end

-- route -----------------------------------------------------------------------------------------------------------------------

local function same_list(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- The last epoch in the words of a caller: versions instead of groups.
local function holds_already(document, want)
  local epoch = document.epochs[#document.epochs]
  if not epoch or epoch.salt ~= want.salt or (epoch.shadow_bp or 0) ~= want.shadow_bp then return false end
  local has, wants, dark = {}, {}, {}
  for _, share in ipairs(epoch.shares) do has[#has + 1] = document.groups[share[1]].version .. ' ' .. share[2] end
  for _, share in ipairs(want.shares) do wants[#wants + 1] = share[1] .. ' ' .. share[2] end
  for _, group in ipairs(epoch.shadow or {}) do dark[#dark + 1] = document.groups[group].version end
  return same_list(has, wants) and same_list(dark, want.shadow)
end

-- nil, or the error: shares sum to 10000, an heir is alive, a dead version owns nothing.
local function check_wanted(want)
  local sum, alive = 0, {}
  for _, share in ipairs(want.shares) do
    if share[2] < 0 or share[2] ~= math.floor(share[2]) then return refusal('SHARES', share[1] .. ' has ' .. share[2]) end
    sum = sum + share[2]
    alive[share[1]] = true
  end
  for _, version in ipairs(want.shadow) do alive[version] = true end
  if sum ~= BASIS_POINTS then return refusal('SHARES', 'sum is ' .. whole(sum) .. ', not 10000') end
  for gone, heir in pairs(want.heirs) do
    if alive[gone] or not alive[heir] then return refusal('HEIRS', gone .. ' cannot be inherited by ' .. heir) end
  end
end

-- The open group of a version; a new one begins where the epoch begins, in the same call.
local function open_group(state, version)
  if state.open[version] then return state.open[version] end
  local name = version .. '@' .. whole(state.gen)
  -- Without ENTRIESREAD the lag of the group stays unknown.
  redis.call('XGROUP', 'CREATE', state.requests, name, state.after, 'MKSTREAM', 'ENTRIESREAD', state.read)
  redis.call('HSET', state.serve, name, version)
  state.document.groups[name] = { version = version, serve = version }
  state.open[version] = name
  return name
end

local function new_epoch(state, want)
  local epoch, keep = { after = state.after, salt = want.salt, shares = {}, shadow_bp = want.shadow_bp }, {}
  for _, share in ipairs(want.shares) do
    local group = open_group(state, share[1])
    keep[group] = true
    epoch.shares[#epoch.shares + 1] = { group, share[2] }
  end
  for _, version in ipairs(want.shadow) do
    local group = open_group(state, version)
    keep[group] = true
    epoch.shadow = epoch.shadow or {}
    epoch.shadow[#epoch.shadow + 1] = group
  end
  for name, group in pairs(state.document.groups) do
    if not keep[name] and not group['until'] then group['until'] = state.after end
  end
  return epoch
end

-- Add the epoch; one that holds no entry is replaced.
local function begin_epoch(state, want)
  local epochs, info = state.document.epochs, stream_info(state.requests)
  state.after, state.read = '0-0', 0
  if #epochs == 0 then
    if info then state.read = info['entries-added'] - info.length end
  elseif info then
    state.after, state.read = info['last-generated-id'], info['entries-added']
  end
  local epoch = new_epoch(state, want)
  if #epochs > 0 and epochs[#epochs].after == epoch.after then epochs[#epochs] = nil end
  epochs[#epochs + 1] = epoch
end

-- Hand the groups of dead versions to their heirs; returns whether anything changed.
local function hand_over(state, heirs)
  local changed = false
  for name, group in pairs(state.document.groups) do
    local heir = heirs[group.serve]
    if heir then
      group.serve = heir
      redis.call('HSET', state.serve, name, heir)
      changed = true
    end
  end
  return changed
end

-- nil, or the error: the caller leads, speaks of this resource, and has seen the current table.
local function check_caller(document, gen, token, uid)
  if document.uid ~= uid then return refusal('FOREIGN', 'routing belongs to uid ' .. document.uid) end
  if token < document.token then return refusal('FENCED', 'token ' .. token .. ' is older than ' .. document.token) end
  if gen ~= document.gen then return refusal('STALE', 'routing is at generation ' .. whole(document.gen)) end
end

-- KEYS requests routing serve ; ARGV gen token uid min_gen wanted(JSON: shares shadow shadow_bp salt heirs)
-- → {gen, after of the last epoch, 1 if changed else 0}
local function route(keys, args)
  local gen, token, uid = tonumber(args[1]), tonumber(args[2]), args[3]
  local document = decode_routing(keys[2]) or { gen = 0, uid = uid, token = token, run = run_id(), epochs = {}, groups = {} }
  local want = cjson.decode(args[5])
  local refused = check_caller(document, gen, token, uid) or check_wanted(want)
  if refused then return refused end
  local state = { document = document, requests = keys[1], serve = keys[3], open = {} }
  state.gen = math.max(document.gen, tonumber(args[4])) + 1
  for name, group in pairs(document.groups) do
    if not group['until'] then state.open[group.version] = name end
  end
  local changed = false
  if not holds_already(document, want) then
    begin_epoch(state, want)
    changed = true
  end
  changed = hand_over(state, want.heirs) or changed
  if changed then document.gen = state.gen end
  if changed or token > document.token then
    document.token = token
    redis.call('SET', keys[2], cjson.encode(document))
  end
  return { document.gen, document.epochs[#document.epochs].after, changed and 1 or 0 }
end

-- KEYS routing and everything to delete ; ARGV uid token   → keys deleted
-- Clears what another resource of the same name left behind; what is ours already stays.
local function wipe(keys, args)
  local document = decode_routing(keys[1])
  if not document or document.uid == args[1] then return 0 end
  if tonumber(args[2]) < document.token then return refusal('FENCED', 'token ' .. args[2] .. ' is older than ' .. document.token) end
  return redis.call('DEL', unpack(keys))
end

-- KEYS routing config ; ARGV uid token json   → 1: the evaluator's orders, fenced like `route`
local function configure(keys, args)
  local document = decode_routing(keys[1])
  if document then
    if document.uid ~= args[1] then return refusal('FOREIGN', 'routing belongs to uid ' .. document.uid) end
    if tonumber(args[2]) < document.token then return refusal('FENCED', 'token ' .. args[2] .. ' is older than ' .. document.token) end
  end
  redis.call('SET', keys[2], args[3])
  return 1
end

-- survey and reap -------------------------------------------------------------------------------------------------------------

-- The largest id up to which the group has nothing left to do.
local function passed(requests, name, info)
  local last = info['last-delivered-id']
  local first = redis.call('XPENDING', requests, name, '-', '+', 1)[1]
  if first and compare(first[1], last) <= 0 then return previous(first[1]) end
  return last
end

local function oldest_waiting(requests, id)
  local entry = redis.call('XRANGE', requests, '(' .. id, '+', 'COUNT', 1)[1]
  return entry and entry[1] or ''
end

-- KEYS requests routing   → {{group, version, serve, until or '', undelivered, pending, passed id, oldest waiting id or ''}…}
local function survey(keys)
  local document, out = decode_routing(keys[2]), {}
  if not document then return out end
  local infos, stream = group_infos(keys[1]), stream_info(keys[1])
  for name, group in pairs(document.groups) do
    local info = infos[name]
    if info then
      local through = passed(keys[1], name, info)
      out[#out + 1] = { name, group.version, group.serve, group['until'] or '', undelivered(info, stream, group.lost),
        info.pending, through, oldest_waiting(keys[1], through) }
    end
  end
  return out
end

-- A group that vanished with the stream's memory of it begins again behind the audited id: what was answered is not published
-- again, because HSETNX of the request id refuses it. `serve` repeats what the table says, and without it nobody may publish.
local function repair(state)
  for name, group in pairs(state.document.groups) do
    if not state.infos[name] then
      redis.call('XGROUP', 'CREATE', state.requests, name, state.document.audited or '0-0', 'MKSTREAM')
      redis.call('HINCRBY', state.alarms, 'lost_groups', 1)
      state.repaired = state.repaired + 1
    end
    if redis.call('HGET', state.serve, name) ~= group.serve then redis.call('HSET', state.serve, name, group.serve) end
  end
  if state.repaired > 0 then state.infos = group_infos(state.requests) end
end

-- Nothing undelivered and nothing pending up to the id at which the group was closed.
local function is_drained(requests, name, info, until_id)
  local last = info['last-delivered-id']
  if compare(last, until_id) < 0 and #redis.call('XRANGE', requests, '(' .. last, until_id, 'COUNT', 1) > 0 then return false end
  return #redis.call('XPENDING', requests, name, '-', until_id, 1) == 0
end

local function destroy_drained(state)
  for name, group in pairs(state.document.groups) do
    if group['until'] and is_drained(state.requests, name, state.infos[name], group['until']) then
      redis.call('XGROUP', 'DESTROY', state.requests, name)
      redis.call('HDEL', state.serve, name)
      state.document.groups[name] = nil
      state.infos[name] = nil
      state.destroyed = state.destroyed + 1
    end
  end
end

-- The append-only file keeps a group's position but not its read counter (Redis 7.0 writes XREADGROUP as XCLAIM … LASTID): after a
-- restart the counters are too small. Until a group has caught up once its counter says nothing.
local function notice_restart(state)
  local run = run_id()
  if state.document.run == run then return end
  state.document.run = run
  for _, group in pairs(state.document.groups) do group.blind = true end
end

-- Entries added, no longer there, and never read by the group: counted once, by how much the level has grown.
local function count_undelivered_losses(state, stream)
  for name, group in pairs(state.document.groups) do
    local read = state.infos[name]['entries-read']
    if type(read) == 'number' and not group.blind then
      local level = stream['entries-added'] - stream.length - read
      local known = group.lost or 0
      if level > known then
        redis.call('HINCRBY', state.alarms, 'lost_undelivered', level - known)
        group.lost = level
      end
    end
  end
end

-- A group that was given everything has read as many entries as were added: tell Redis, so that its lag is right from here on.
local function anchor(state, stream)
  local last, added = stream['last-generated-id'], stream['entries-added']
  for name, group in pairs(state.document.groups) do
    local info = state.infos[name]
    if info['last-delivered-id'] == last then
      if info['entries-read'] ~= added then
        redis.call('XGROUP', 'SETID', state.requests, name, last, 'ENTRIESREAD', added)
      end
      group.blind, group.lost = nil, nil
    end
  end
end

-- The largest id that every group has passed; nil without groups.
local function low_water(state)
  local low
  for name in pairs(state.document.groups) do
    local through = passed(state.requests, name, state.infos[name])
    if not low or compare(through, low) < 0 then low = through end
  end
  return low
end

-- The id under which an entry is answered; an `o` that is not an id is ignored, as the workers do.
local function original_of(entry)
  local original = entry[1]
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'o' then
      local value = entry[2][i + 1]
      local ms, seq = string.match(value, '^(%d+)%-(%d+)$')
      original = (ms and #ms <= 15 and #seq <= 20) and value or entry[1]
    end
  end
  return original
end

-- An entry that all groups have passed and nobody answered. When its bucket may have expired nothing can be said: counted only.
local function unanswered(state, entry, request)
  local ms = parts(request)
  if ms < state.now - state.ttl_ms then
    redis.call('HINCRBY', state.alarms, 'unaudited', 1)
    return
  end
  again(state.requests, request, entry[2])
  redis.call('HINCRBY', state.alarms, 'readded', 1)
  state.readded = state.readded + 1
end

-- A loss becomes a delay and an alarm: every passed id must have an answer or a dead letter, or it is added again.
local function audit(state)
  local from = state.document.audited or '0-0'
  local low = low_water(state)
  if not low or compare(low, from) <= 0 then return end
  local entries = redis.call('XRANGE', state.requests, '(' .. from, low, 'COUNT', state.budget)
  for _, entry in ipairs(entries) do
    local request = original_of(entry)
    if redis.call('HEXISTS', bucket_of(state.answers, request), request) == 0 then unanswered(state, entry, request) end
  end
  state.more = #entries == state.budget
  state.document.audited = state.more and entries[#entries][1] or low
end

-- Epochs whose entries are all audited are of no use to anybody.
local function drop_epochs(state)
  local document = state.document
  while document.audited and #document.epochs > 1 and compare(document.audited, document.epochs[2].after) >= 0 do
    table.remove(document.epochs, 1)
  end
end

-- Only audited ids, by age; above the byte limit earlier, still only audited ones. `~` and LIMIT bound the work of one call.
local function trim(state, max_age_ms, max_bytes)
  local audited = state.document.audited
  if not audited or redis.call('EXISTS', state.requests) == 0 then return 0 end
  local ms, seq = parts(audited)
  local behind, by_age = whole(ms) .. '-' .. whole(seq + 1), whole(math.max(0, state.now - max_age_ms)) .. '-0'
  if string.sub(audited, -#MAX_SEQUENCE) == MAX_SEQUENCE then behind = whole(ms + 1) .. '-0' end
  local oldest = compare(by_age, behind) < 0 and by_age or behind
  local trimmed = redis.call('XTRIM', state.requests, 'MINID', '~', oldest, 'LIMIT', TRIM_LIMIT)
  local bytes = redis.call('MEMORY', 'USAGE', state.requests) or 0
  if bytes > max_bytes then
    local surplus = math.ceil(redis.call('XLEN', state.requests) * (1 - max_bytes / bytes))
    trimmed = trimmed + redis.call('XTRIM', state.requests, 'MINID', '~', behind, 'LIMIT', math.max(100, surplus))
  end
  return trimmed
end

-- XDEL, never XTRIM: replays delete here, and mixing the two on one stream can leave an RDB that the server refuses.
local function bound_dead_letters(key)
  local surplus = math.min(redis.call('XLEN', key) - DEAD_LETTERS_KEPT, PAGE)
  if surplus <= 0 then return end
  for _, letter in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', surplus)) do redis.call('XDEL', key, letter[1]) end
end

-- KEYS requests routing serve alarms dead ; ARGV answers_prefix max_age_ms max_bytes ttl_seconds budget
-- → {groups destroyed, groups repaired, readded, trimmed, audited id, 1 if there is more to do}
local function reap(keys, args)
  local raw = redis.call('GET', keys[2])
  if not raw then return { 0, 0, 0, 0, '0-0', 0 } end
  local state = {
    document = cjson.decode(raw), requests = keys[1], serve = keys[3], alarms = keys[4], answers = args[1],
    ttl_ms = tonumber(args[4]) * 1000, budget = tonumber(args[5]), now = now_ms(), infos = group_infos(keys[1]),
    destroyed = 0, repaired = 0, readded = 0, more = false,
  }
  repair(state)
  destroy_drained(state)
  local stream = stream_info(state.requests)
  if stream then
    notice_restart(state)
    count_undelivered_losses(state, stream)
    anchor(state, stream)
  end
  audit(state)
  drop_epochs(state)
  local trimmed = trim(state, tonumber(args[2]), tonumber(args[3]))
  bound_dead_letters(keys[5])
  local after = cjson.encode(state.document)
  if after ~= raw then redis.call('SET', keys[2], after) end
  local more = (state.more or trimmed > TRIM_LIMIT / 2) and 1 or 0
  return { state.destroyed, state.repaired, state.readded, trimmed, state.document.audited or '0-0', more }
end

-- Under memory pressure what drains goes on (allow-oom), what fills is refused.
local function register(name, callback, flags)
  redis.register_function { function_name = 'continual_v1_' .. name, callback = callback, flags = flags }
end

register('enqueue', enqueue, {})
register('commit', commit, { 'allow-oom' })
register('renew', renew, { 'allow-oom' })
register('claim', claim, { 'allow-oom' })
register('forget', forget, { 'allow-oom' })
register('dead', dead, { 'allow-oom' })
register('replay', replay, {})
register('route', route, {})
register('configure', configure, {})
register('wipe', wipe, { 'allow-oom' })
register('survey', survey, { 'no-writes' })
register('reap', reap, { 'allow-oom' })

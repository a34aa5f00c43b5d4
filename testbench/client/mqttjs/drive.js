// Does with MQTT.js what talk.Driver asks for: requests and answers are lines of JSON.
'use strict'
const crypto = require('crypto')
const fs = require('fs')
const net = require('net')
const readline = require('readline')
const mqtt = require('mqtt')

const connections = {}
const say = what => process.stdout.write(JSON.stringify(what) + '\n')
const file = name => name ? fs.readFileSync(name) : undefined
const cut = o => Object.fromEntries(Object.entries(o).filter(([, v]) => v))

function userProperties (text) {
  if (!text) return undefined
  const all = {}
  for (const pair of text.split(',')) {
    const [name, value] = pair.split('=')
    all[name] = all[name] === undefined ? value : [].concat(all[name], value)
  }
  return all
}

// properties are those of a message that is published, or a will.
function properties (m) {
  return cut({
    payloadFormatIndicator: m.Text, messageExpiryInterval: m.Expiry, contentType: m.ContentType, responseTopic: m.Response,
    correlationData: m.Correlation && Buffer.from(m.Correlation), userProperties: userProperties(m.User), willDelayInterval: m.Delay,
  })
}

function shown (p) {
  const q = p.properties || {}
  return {
    Topic: p.topic.toString(), Payload: p.payload.toString(), QoS: p.qos, Retain: p.retain,
    Text: Boolean(q.payloadFormatIndicator), Expiry: q.messageExpiryInterval || 0, ContentType: q.contentType || '', Response: q.responseTopic || '',
    Correlation: q.correlationData ? q.correlationData.toString() : '',
    User: Object.entries(q.userProperties || {}).flatMap(([k, v]) => [].concat(v).map(v => `${k}=${v}`)).join(),
    IDs: [].concat(q.subscriptionIdentifier || []).join(), Alias: q.topicAlias || 0,
  }
}

// Scram is the client's half of RFC 5802.
class Scram {
  constructor (c) {
    this.c = c
    this.hash = c.Method.replace('SCRAM-SHA-', 'sha')
    this.bare = `n=${c.User},r=${crypto.randomBytes(18).toString('base64')}`
  }

  first () { return Buffer.from('n,,' + this.bare) }

  final (challenge) {
    const of = Object.fromEntries(challenge.toString().split(',').map(s => [s[0], s.slice(2)]))
    const length = crypto.createHash(this.hash).digest().length
    const salted = crypto.pbkdf2Sync(this.c.Password, Buffer.from(of.s, 'base64'), Number(of.i), length, this.hash)
    const hmac = (key, text) => crypto.createHmac(this.hash, key).update(text).digest()
    const key = hmac(salted, 'Client Key')
    const without = `c=biws,r=${of.r}`
    const all = [this.bare, challenge.toString(), without].join()
    const signature = hmac(crypto.createHash(this.hash).update(key).digest(), all)
    this.verifier = 'v=' + hmac(hmac(salted, 'Server Key'), all).toString('base64')
    return Buffer.from(`${without},p=${Buffer.from(key.map((b, i) => b ^ signature[i])).toString('base64')}`)
  }
}

function dial (c, o) {
  if (c.Transport === 'unix') return new mqtt.MqttClient(() => net.createConnection(c.Path), o)
  const scheme = { tcp: 'mqtt', tls: 'mqtts' }[c.Transport] || c.Transport
  return mqtt.connect(`${scheme}://${c.Host}:${c.Port}${c.Transport.startsWith('ws') ? '/mqtt' : ''}`, o)
}

function connect (name, c) {
  const five = c.Version === 5
  const scram = c.Method && new Scram(c)
  const secrets = { ca: file(c.CA), cert: file(c.Cert), key: file(c.Key) }
  const o = cut({
    protocolVersion: c.Version, keepalive: c.KeepAlive, connectTimeout: 20000, username: c.User, password: c.Password,
    ...secrets, wsOptions: secrets, // over WebSocket they are the ws library's
  })
  Object.assign(o, { clientId: c.ClientID, clean: c.Clean, reconnectPeriod: 0, autoAssignTopicAlias: c.AssignAliases })
  if (scram) {
    delete o.username
    delete o.password
  }
  if (five) {
    o.properties = cut({
      sessionExpiryInterval: c.Expiry, receiveMaximum: c.ReceiveMaximum, maximumPacketSize: c.MaximumPacketSize,
      topicAliasMaximum: c.TopicAliasMaximum, requestResponseInformation: c.RequestResponse,
      authenticationMethod: c.Method, authenticationData: scram && scram.first(),
    })
    if (c.NoProblem) o.properties.requestProblemInformation = false
  }
  if (c.Will) {
    o.will = { topic: c.Will.Topic, payload: Buffer.from(c.Will.Payload), qos: c.Will.QoS, retain: c.Will.Retain, properties: five ? properties(c.Will) : undefined }
  }
  return new Promise((resolve, reject) => {
    const client = dial(c, o)
    const conn = connections[name] = { client, held: false, waiting: [], why: {}, bare: {} }
    client.handleMessage = (packet, done) => conn.held ? conn.waiting.push(done) : done()
    client.handleAuth = (packet, done) => done(null, {
      cmd: 'auth', reasonCode: 0x18, properties: { authenticationMethod: c.Method, authenticationData: scram.final(packet.properties.authenticationData) },
    })
    // As they come, with their aliases.
    client.on('packetreceive', p => { if (p.cmd === 'publish') say({ Conn: name, Message: shown(p) }) })
    client.on('packetreceive', p => {
      if (p.cmd === 'puback' || p.cmd === 'pubrec') conn.why[p.messageId] = { Code: p.reasonCode || 0, Reason: (p.properties && p.properties.reasonString) || '' }
    })
    client.on('packetsend', p => { if (p.cmd === 'publish') conn.bare[p.messageId] = p.topic === '' ? p.properties.topicAlias : 0 })
    client.on('disconnect', p => { conn.reason = { Code: p.reasonCode, Reason: (p.properties && p.properties.reasonString) || '' } })
    client.on('close', () => {
      say({ Conn: name, Closed: conn.reason || { Code: -1 } })
      resolve({ Code: -1 })
      for (const end of conn.ends || []) end()
    })
    client.on('error', err => { conn.error = String(err); if (!(err.code > 0)) resolve({ Code: -1, Reason: String(err) }) })
    client.on('packetreceive', p => {
      if (p.cmd !== 'connack') return
      const q = p.properties || {}
      const answer = {
        Code: p.reasonCode || p.returnCode || 0, Reason: q.reasonString || '', Present: p.sessionPresent, Assigned: q.assignedClientIdentifier || '',
        Response: q.responseInformation || '', KeepAlive: q.serverKeepAlive || 0, Receive: q.receiveMaximum || 0, Packet: q.maximumPacketSize || 0,
        Aliases: q.topicAliasMaximum || 0,
      }
      if (scram && !answer.Code && q.authenticationData.toString() !== scram.verifier) reject(new Error('the server does not know the password'))
      if (answer.Code || !c.Filters) return resolve(answer)
      client.once('connect', () => subscribe(client, c).then(codes => resolve({ ...answer, Codes: codes }), reject))
    })
  })
}

function subscribe (client, c) {
  return new Promise(resolve => {
    client.on('packetreceive', p => { if (p.cmd === 'suback') resolve(p.granted.map(g => g.qos ?? g)) })
    const filters = Object.fromEntries(c.Filters.map(f => [f.Filter, { qos: f.QoS, nl: f.NoLocal, rap: f.AsPublished, rh: f.Handling }]))
    client.subscribe(filters, c.SubscriptionID ? { properties: { subscriptionIdentifier: c.SubscriptionID } } : {}, () => {})
  })
}

function publish (conn, m, payloads) {
  const five = conn.client.options.protocolVersion === 5
  return Promise.all(payloads.map((payload, i) => new Promise(resolve => {
    const o = { qos: m.QoS, retain: m.Retain, properties: five ? { ...properties(m), ...cut({ topicAlias: m.Alias }) } : undefined }
    const ended = () => resolve({ Code: -1, Reason: conn.error || '' })
    ;(conn.ends ||= new Set()).add(ended)
    conn.client.publish(m.Alias && i ? '' : m.Topic, payload, o, (err, p) => {
      conn.ends.delete(ended)
      // The packet of the callback is the publish.
      const why = p && conn.why[p.messageId]
      resolve(why && why.Code ? why : err ? { Code: err.code > 0 ? err.code : -1, Reason: String(err) } : { Code: 0, Aliases: (p && conn.bare[p.messageId]) || 0 })
    })
  })))
}

const ways = {
  connect: async r => [await connect(r.Conn, r.Connect)],
  publish: r => publish(connections[r.Conn], r.Message, r.Payloads),
  hold: async r => { connections[r.Conn].held = true },
  go: async r => {
    const c = connections[r.Conn]
    c.held = false
    for (const done of c.waiting.splice(0)) done()
  },
  leave: r => new Promise(resolve => connections[r.Conn].client.end(false, {}, resolve)),
  will: r => new Promise(resolve => connections[r.Conn].client.end(false, { reasonCode: 4 }, resolve)),
  kill: async r => { connections[r.Conn].client.stream.destroy() },
}

const requests = readline.createInterface({ input: process.stdin })
requests.on('line', line => {
  const r = JSON.parse(line)
  ways[r.Do](r).then(answers => say({ ID: r.ID, Answers: answers }), err => say({ ID: r.ID, Error: String(err.stack) }))
})
requests.on('close', () => process.exit(0))

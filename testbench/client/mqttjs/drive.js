// Goes through one plan of talk.Plan with MQTT.js and prints its talk.Report.
'use strict'
const fs = require('fs')
const net = require('net')
const mqtt = require('mqtt')

const plan = JSON.parse(fs.readFileSync(0, 'utf8'))
const five = plan.version === 5
const random = Math.random().toString(16).slice(2)

function options (name, more) {
  return Object.assign({
    protocolVersion: plan.version, clientId: `${name}-${random}`, clean: true, reconnectPeriod: 0, connectTimeout: 20000,
    username: plan.user, password: plan.password, ca: plan.ca && fs.readFileSync(plan.ca),
    // Over WebSocket the options are the ws library's.
    wsOptions: { ca: fs.readFileSync(plan.ca) },
  }, more)
}

function dial (o) {
  if (plan.transport === 'unix') {
    return new mqtt.MqttClient(() => net.createConnection(plan.path), o)
  }
  const scheme = plan.transport === 'tcp' ? 'mqtt' : plan.transport === 'tls' ? 'mqtts' : plan.transport
  const path = plan.transport.startsWith('ws') ? '/mqtt' : ''
  return mqtt.connect(`${scheme}://${plan.host}:${plan.port}${path}`, o)
}

// connected is a client, or the code it was refused with.
function connected (name, more) {
  return new Promise((resolve, reject) => {
    const client = dial(options(name, more))
    client.on('connect', () => resolve(client))
    client.on('error', err => err.code > 0 ? resolve(err.code) : reject(err))
    client.on('packetreceive', p => { if (p.cmd === 'connack' && (p.reasonCode || p.returnCode)) resolve(p.reasonCode || p.returnCode) })
  })
}

// subscribed is the code a filter is answered with.
function subscribed (client, filter) {
  return new Promise(resolve => {
    client.on('packetreceive', p => { if (p.cmd === 'suback') resolve(p.granted[0].qos ?? p.granted[0]) })
    client.subscribe(filter, { qos: plan.qos }, () => {})
  })
}

function publish (client, topic, payload, o) {
  return new Promise((resolve, reject) => client.publish(topic, payload, o, err => err ? reject(err) : resolve()))
}

function shown (p) {
  const q = p.properties || {}
  return {
    topic: p.topic, payload: p.payload.toString(), qos: p.qos, retain: p.retain,
    contentType: q.contentType || '', response: q.responseTopic || '', correlation: q.correlationData ? q.correlationData.toString() : '',
    user: Object.entries(q.userProperties || {}).map(([k, v]) => `${k}=${v}`).join(), expiry: q.messageExpiryInterval > 0,
  }
}

// messages gathers n messages of a client.
function messages (client, n) {
  const got = []
  return new Promise(resolve => client.on('message', (topic, payload, packet) => {
    if (got.push(shown(packet)) === n) resolve(got)
  }))
}

async function main () {
  const report = {}
  const reader = await connected('reader')
  const first = messages(reader, 2)
  const got = messages(reader, 3)
  report.granted = await subscribed(reader, `${plan.base}/#`)
  report.denied = await subscribed(reader, 'shut/#')
  const writer = await connected('writer', { will: { topic: `${plan.base}/will`, payload: Buffer.from('gone'), qos: plan.qos } })
  writer.on('error', () => {})
  await publish(writer, `${plan.base}/a`, 'one', {
    qos: plan.qos,
    properties: five
      ? { contentType: 'text/plain', responseTopic: 'open/answers', correlationData: Buffer.from('id-7'), userProperties: { name: 'one' }, messageExpiryInterval: 3600 }
      : undefined,
  })
  await publish(writer, `${plan.base}/kept`, 'two', { qos: plan.qos, retain: true })
  await first // what was published with QoS 0 too
  const late = await connected('late')
  const kept = messages(late, 1)
  await subscribed(late, `${plan.base}/kept`)
  report.kept = (await kept)[0]
  writer.stream.destroy()
  report.got = await got
  const denied = await connected('denied')
  report.refused = await new Promise(resolve => {
    denied.on('packetreceive', p => { if (p.cmd === 'puback') resolve(p.reasonCode) })
    denied.on('close', () => resolve(-1))
    denied.on('error', () => {})
    denied.publish('shut/x', 'no', { qos: 1 }, () => {})
  })
  report.wrong = await connected('wrong', { password: 'wrong password' })
  process.stdout.write(JSON.stringify(report) + '\n')
  process.exit(0)
}

main().catch(err => {
  console.error(err)
  process.exit(1)
})

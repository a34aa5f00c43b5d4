// Drives kafkajs as the plan on standard input says; drill.Program in Go says how.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { Kafka, logLevel, CompressionTypes, CompressionCodecs, PartitionAssigners } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4js')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})
const codecs = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD,
}

const decoded = (text) => (text === null ? null : Buffer.from(text, 'base64'))
const encoded = (raw) => (raw === null || raw === undefined ? null : Buffer.from(raw).toString('base64'))
const say = (what) => fs.writeSync(1, JSON.stringify(what) + '\n')

function client(door, name, retries) {
  const config = { brokers: [door.address], clientId: name, logLevel: logLevel.WARN, retry: { initialRetryTime: 50, maxRetryTime: 300, retries } }
  if (door.user) {
    config.sasl = { mechanism: door.mechanism.toLowerCase(), username: door.user, password: door.password }
    config.ssl = door.ca ? { ca: [fs.readFileSync(door.ca)] } : false
  }
  return new Kafka(config)
}

// Headers are an object: what is there twice is an array.
function headersOf(list) {
  const headers = {}
  for (const { key, value } of list || []) {
    const v = decoded(value)
    headers[key] = key in headers ? [].concat(headers[key], v) : v
  }
  return headers
}

async function produce(door, batches) {
  const producer = client(door, 'producer', 3).producer({ allowAutoTopicCreation: false })
  await producer.connect()
  try {
    for (const { codec, records } of batches) {
      const topics = new Map()
      for (const r of records) {
        if (!topics.has(r.topic)) topics.set(r.topic, [])
        topics.get(r.topic).push({
          partition: r.partition, timestamp: String(r.timestamp), key: decoded(r.key), value: decoded(r.value), headers: headersOf(r.headers),
        })
      }
      const topicMessages = [...topics].map(([topic, messages]) => ({ topic, messages }))
      await producer.sendBatch({ acks: -1, compression: codecs[codec], topicMessages })
    }
  } finally {
    await producer.disconnect()
  }
}

async function join(door, member, lines) {
  const config = {
    groupId: member.group, heartbeatInterval: 200, maxWaitTimeInMs: 100, sessionTimeout: 10000, allowAutoTopicCreation: false,
  }
  if (member.assignor) config.partitionAssigners = [PartitionAssigners[member.assignor]]
  const consumer = client(door, member.name, 50).consumer(config)
  let mayCommit = () => {}
  lines.on('line', () => mayCommit())
  const left = new Promise((resolve) => lines.on('close', resolve))
  left.then(() => mayCommit())
  await consumer.connect()
  await consumer.subscribe({ topics: member.topics, fromBeginning: true })
  await consumer.run({
    eachBatch: async ({ batch, isStale }) => {
      if (isStale()) return
      for (const m of batch.messages) {
        const headers = []
        for (const [key, values] of Object.entries(m.headers || {})) {
          for (const value of [].concat(values)) headers.push({ key, value: encoded(value) })
        }
        say({
          topic: batch.topic, partition: batch.partition, offset: Number(m.offset), timestamp: Number(m.timestamp), key: encoded(m.key), value: encoded(m.value), headers,
        })
      }
      const known = new Promise((resolve) => { mayCommit = resolve })
      say({ commit: true })
      await known // afterwards kafkajs commits the batch
    },
  })
  await left
  await consumer.disconnect()
}

async function main() {
  await zstd.init()
  const lines = readline.createInterface({ input: process.stdin })
  const plan = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)))
  if (plan.do === 'produce') {
    await produce(plan.door, plan.batches)
  } else {
    await join(plan.door, plan.member, lines)
  }
}

main().catch((e) => say({ error: `${e.name}: ${e.message}` })).finally(() => process.exit(0))

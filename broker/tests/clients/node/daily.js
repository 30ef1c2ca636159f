// Daily use (../README.md) with kafkajs, which has classic groups only.
'use strict'

const assert = require('node:assert/strict')
const { CompressionCodecs, CompressionTypes, Kafka, Partitioners, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const snappy = require('snappyjs')
const zstd = require('@bokuweb/zstd-wasm')

const [, , mode, bootstrap, ...rest] = process.argv
const PARTITIONS = 6
const RECORDS_PER_S = 150
const PATIENCE_MS = 30000
// In the past, but not by so much that the records were to be deleted at once.
const BASE_MS = Date.now() - 3600000

const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

// The client leaves every codec but gzip to others.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: encoder => lz4.compressFrame(encoder.buffer),
  decompress: buffer => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})
// Kafka's Snappy comes in the frames of the Java library snappy-java: a header of 16 bytes, then blocks with their sizes.
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0, 0, 0, 0, 1, 0, 0, 0, 1])
CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async encoder => {
    const block = Buffer.from(snappy.compress(encoder.buffer))
    const size = Buffer.alloc(4)
    size.writeUInt32BE(block.length)
    return Buffer.concat([XERIAL, size, block])
  },
  decompress: async buffer => {
    if (!buffer.subarray(0, 8).equals(XERIAL.subarray(0, 8))) {
      return Buffer.from(snappy.uncompress(buffer))
    }
    const blocks = []
    for (let at = XERIAL.length; at < buffer.length; ) {
      const size = buffer.readUInt32BE(at)
      blocks.push(Buffer.from(snappy.uncompress(buffer.subarray(at + 4, at + 4 + size))))
      at += 4 + size
    }
    return Buffer.concat(blocks)
  },
})

const kafka = new Kafka({ clientId: 'daily', brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 10 } })

async function create(topic, numPartitions) {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: 1 }], waitForLeaders: true })
  await admin.disconnect()
}

async function produce(topic, messages, compression = CompressionTypes.None, acks = -1) {
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  const delivered = await producer.send({ topic, acks, compression, messages })
  await producer.disconnect()
  return delivered
}

// A running consumer of a group: what it has read, in `found`; what it owns, in `owned`.
class Reader {
  constructor(topic, group, onRecords = () => {}) {
    Object.assign(this, { topic, group, onRecords, found: [], owned: null })
    this.consumer = kafka.consumer({
      groupId: group,
      sessionTimeout: 6000,
      heartbeatInterval: 1000,
      rebalanceTimeout: 10000,
      maxWaitTimeInMs: 200,
    })
    this.consumer.on(this.consumer.events.GROUP_JOIN, ({ payload }) => {
      this.owned = payload.memberAssignment[topic] ?? []
      this.onOwned?.(this.owned)
    })
    // The client starts again by itself after most errors, and says so.
    this.consumer.on(this.consumer.events.CRASH, ({ payload }) => {
      if (!payload.restart) {
        this.crash = payload.error
      }
    })
  }

  async start(run) {
    await this.consumer.connect()
    await this.consumer.subscribe({ topics: [this.topic], fromBeginning: true })
    await this.consumer.run(
      run ?? {
        autoCommit: false,
        eachMessage: async ({ partition, message }) => void this.found.push({ partition, ...message }),
      }
    )
    return this
  }

  async until(what, condition) {
    const deadline = Date.now() + PATIENCE_MS
    while (!condition()) {
      assert(!this.crash, `the consumer failed: ${this.crash}`)
      assert(Date.now() < deadline, `${what} within ${PATIENCE_MS} ms; ${this.found.length} records`)
      await pause(10)
    }
  }

  async read(count) {
    await this.until(`${count} records`, () => this.found.length >= count)
    return this.found.splice(0)
  }

  async joined(partitions) {
    await this.start()
    await this.until('an assignment', () => this.owned?.length === partitions)
    return this
  }
}

async function readTopic(topic, count) {
  const reader = await new Reader(topic, topic).joined(1)
  const found = await reader.read(count)
  await reader.consumer.disconnect()
  return found
}

const text = buffer => (buffer === null || buffer === undefined ? null : buffer.toString('latin1'))
const offsets = records => records.map(({ offset }) => Number(offset))
const range = (start, end) => Array.from({ length: end - start }, (_, at) => start + at)
const numbered = (count, partition = 0) =>
  range(0, count).map(n => ({ partition, key: `${n}`, value: `${n}`, timestamp: `${BASE_MS + 10 * n}` }))

async function codecsAndAcks() {
  for (const [codec, compression] of Object.entries(CompressionTypes)) {
    for (const acks of [0, 1, -1]) {
      const topic = `kafkajs-${codec}-${acks}`
      await create(topic, 1)
      const messages = range(0, 200).map(n => ({ key: n % 2 ? `${n}` : null, value: `${n} `.repeat(20) }))
      const delivered = await produce(topic, messages, compression, acks)
      if (acks !== 0) {
        assert.equal(Number(delivered[0].baseOffset), 0)
      }
      const found = await readTopic(topic, 200)
      assert.deepEqual(found.map(({ key, value }) => ({ key: text(key), value: text(value) })), messages)
      assert.deepEqual(offsets(found), range(0, 200))
    }
  }
}

async function records() {
  const topic = 'kafkajs-records'
  await create(topic, 1)
  // A null header and one between two others of its name cannot be said in this client.
  const messages = [
    { key: 'key', value: 'value', headers: { a: ['1', '2', '3'], c: '', '': '4', b: 'x' } },
    { key: null, value: 'value' },
    { key: '', value: '' },
    { key: 'deleted', value: null },
    { key: Buffer.from([0, 255]), value: Buffer.alloc(500000), timestamp: `${BASE_MS + 123}` },
  ]
  await produce(topic, messages)
  const found = await readTopic(topic, messages.length)
  const hex = value => (value === null ? null : Buffer.from(value).toString('hex'))
  const contents = all => all.map(({ key, value }) => `${hex(key)} ${hex(value)}`)
  assert.deepEqual(contents(found), contents(messages))
  const headers = Object.entries(found[0].headers).map(([key, value]) => [key, [value].flat().map(text)])
  assert.deepEqual(headers, [['a', ['1', '2', '3']], ['c', ['']], ['', ['4']], ['b', ['x']]])
  assert.equal(Number(found[4].timestamp), BASE_MS + 123)
}

async function committedOf(group, topic) {
  const admin = kafka.admin()
  await admin.connect()
  const [found] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  await admin.disconnect()
  return found.partitions
}

async function commits() {
  const topic = 'kafkajs-commits'
  await create(topic, 1)
  await produce(topic, numbered(300))
  let start = 0
  for (const [offset, metadata] of [['100', 'after the first hundred: ä'], ['50', '']]) {
    const reader = await new Reader(topic, topic).joined(1)
    assert.deepEqual(offsets(await reader.read(300 - start)), range(start, 300))
    await reader.consumer.commitOffsets([{ topic, partition: 0, offset, metadata }])
    await reader.consumer.disconnect()
    const [committed] = await committedOf(topic, topic)
    assert.deepEqual([committed.offset, committed.metadata ?? ''], [offset, metadata])
    start = Number(offset)
  }
  const fresh = await new Reader(topic, topic).joined(1)
  assert.deepEqual(offsets(await fresh.read(250)), range(50, 300))
  await fresh.consumer.disconnect()
}

async function seek() {
  const topic = 'kafkajs-seek'
  await create(topic, 1)
  await produce(topic, numbered(1000))
  const reader = await new Reader(topic, topic).joined(1)
  await reader.read(1000)
  const to = async offset => {
    reader.consumer.seek({ topic, partition: 0, offset: `${offset}` })
    const found = await reader.read(1000 - offset)
    assert.deepEqual(offsets(found), range(offset, 1000))
    assert.equal(text(found[0].value), `${offset}`)
  }
  for (const offset of [990, 7, 999, 0, 500]) {
    await to(offset)
  }
  const admin = kafka.admin()
  await admin.connect()
  for (const [at, offset] of [[0, 0], [1, 1], [10, 1], [4995, 500], [9990, 999]]) {
    const [found] = await admin.fetchTopicOffsetsByTimestamp(topic, BASE_MS + at)
    assert.equal(Number(found.offset), offset)
    await to(offset)
  }
  // For a time after the last record the client gives the end.
  const [end] = await admin.fetchTopicOffsetsByTimestamp(topic, BASE_MS + 9991)
  assert.equal(Number(end.offset), 1000)
  await admin.disconnect()
  await reader.consumer.disconnect()
}

async function pauseAndResume() {
  const topic = 'kafkajs-pause'
  await create(topic, 2)
  const reader = await new Reader(topic, topic).joined(2)
  reader.consumer.pause([{ topic, partitions: [0] }])
  for (const partition of [0, 1]) {
    await produce(topic, numbered(100, partition))
  }
  const places = found => found.map(({ partition, offset }) => [partition, Number(offset)])
  assert.deepEqual(places(await reader.read(100)), range(0, 100).map(n => [1, n]))
  await pause(1000)
  assert.deepEqual(reader.found, [])
  reader.consumer.resume([{ topic, partitions: [0] }])
  assert.deepEqual(places(await reader.read(100)), range(0, 100).map(n => [0, n]))
  await reader.consumer.disconnect()
}

async function plain() {
  const tests = {
    'codecs and acks': codecsAndAcks,
    records,
    'commits, classic': commits,
    'seek, classic': seek,
    'pause and resume, classic': pauseAndResume,
  }
  const begin = Date.now()
  let failed = 0
  for (const [name, test] of Object.entries(tests)) {
    const begin = Date.now()
    let verdict = 'ok'
    try {
      await test()
    } catch (failure) {
      failed += 1
      verdict = 'FAILED'
      console.log(String(failure.stack).slice(0, 3000))
    }
    console.log(`test kafkajs: ${name} ... ${verdict} (${(Date.now() - begin) / 1000} s)`)
  }
  const passed = Object.keys(tests).length - failed
  const verdict = failed ? 'FAILED' : 'ok'
  const seconds = (Date.now() - begin) / 1000
  console.log(`test result: ${verdict}. ${passed} passed; ${failed} failed; 0 ignored; finished in ${seconds}s`)
  return failed ? 1 : 0
}

function endOfInput() {
  const end = { reached: false }
  process.stdin.resume()
  process.stdin.on('end', () => (end.reached = true))
  return end
}

async function produceUntilTheEnd(topic) {
  await create(topic, PARTITIONS)
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  const end = endOfInput()
  const begin = Date.now()
  for (let next = 0; !end.reached; await pause(20)) {
    // One record each, so that each one's offset is told.
    const sent = []
    for (; next < ((Date.now() - begin) / 1000) * RECORDS_PER_S; next++) {
      const value = `${next}`
      const told = producer.send({ topic, messages: [{ key: `key ${value}`, value }] })
      sent.push(told.then(([at]) => console.log(`sent ${at.partition} ${at.baseOffset} ${value}`)))
    }
    await Promise.all(sent)
  }
  await producer.disconnect()
  return 0
}

async function member(topic, group) {
  const end = endOfInput()
  const reader = new Reader(topic, group)
  reader.onOwned = owned => console.log(['owns', ...owned].join(' '))
  await reader.start({
    autoCommit: false,
    // The client has no callback before a partition is handed over, so every batch is committed.
    eachBatchAutoResolve: true,
    eachBatch: async ({ batch, isRunning, isStale }) => {
      if (!isRunning() || isStale()) {
        return
      }
      const { partition, messages } = batch
      process.stdout.write(messages.map(({ offset, value }) => `got -1 ${partition} ${offset} ${value}\n`).join(''))
      const last = messages[messages.length - 1].offset
      const offset = `${BigInt(last) + 1n}`
      try {
        await reader.consumer.commitOffsets([{ topic, partition, offset }])
      } catch (error) {
        console.log(`lost ${partition} ${messages[0].offset} ${last}`)
        // The client joins again if it is told what the broker said; in the error that commitOffsets makes of it, it
        // does not recognise that.
        throw error.cause ?? error
      }
    },
  })
  while (!end.reached) {
    assert(!reader.crash, `the consumer failed: ${reader.crash}`)
    await pause(20)
  }
  await reader.consumer.disconnect()
  console.log('left')
  return 0
}

async function committed(topic, group) {
  for (const { partition, offset } of await committedOf(group, topic)) {
    if (Number(offset) >= 0) {
      console.log(`committed ${partition} ${offset}`)
    }
  }
  return 0
}

zstd
  .init()
  .then(() => ({ plain, produce: produceUntilTheEnd, member, committed })[mode](...rest))
  .then(status => process.exit(status))
  .catch(failure => {
    console.error(failure)
    process.exit(1)
  })

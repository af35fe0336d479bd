package org.lastmile.app

import android.content.Context
import java.io.File
import java.time.Instant
import java.time.temporal.ChronoUnit
import org.json.JSONArray
import org.json.JSONObject
import org.lastmile.inference.Engine
import org.lastmile.inference.Engines
import org.lastmile.inference.InferenceException
import org.lastmile.inference.Options
import org.lastmile.inference.Pictures
import org.lastmile.inference.Pixels
import org.lastmile.inference.Preprocessing
import org.lastmile.inference.Session
import org.lastmile.inference.TensorInfo
import org.lastmile.inference.sha256

/**
 * edge-bench's verbs, with its words, its JSON and its files, so that a host need not know that a phone answers.
 *
 * @property results the folder that output files go to.
 * @property allowed the files that may be read, which are what the host says they are.
 * @property progress hears (done, of) now and then.
 */
class Verbs(
    private val context: Context,
    private val results: File,
    private val allowed: Set<String>,
    private val progress: (Int, Int) -> Unit
) {
    /** Runs one command, or throws an [InferenceException] that says in one line what is wrong. */
    fun answer(words: List<String>): JSONObject {
        val verb = words.firstOrNull() ?: throw InferenceException("no command; known: facts, predict, run, runtimes, trace")
        val rest = Words(words.drop(1))
        return when (verb) {
            "run" -> run(rest)
            "predict" -> predict(rest)
            "trace" -> trace(rest)
            "facts" -> rest.none().let {
                JSONObject().put("schema", 1).put("device", Facts.device(context)).putAll(Facts.state(context)).put("tools", tools(null))
            }
            "runtimes" -> rest.none().let { runtimes() }
            else -> throw InferenceException("unknown command '$verb'; known: facts, predict, run, runtimes, trace")
        }
    }

    private fun runtimes(): JSONObject {
        val listed =
            Engines.all.map { engine ->
                val reason = engine.missing()
                JSONObject()
                    .put("name", engine.name)
                    .put("suffix", engine.suffix)
                    .put("default", true)
                    .put("available", reason == null)
                    .put("version", if (reason == null) version(engine) else JSONObject.NULL)
                    .put("reason", reason ?: JSONObject.NULL)
                    .put("install", "build the app with it: inv android.build --engine ${engine.name}")
            }
        return JSONObject().put("schema", 1).put("runtimes", JSONArray(listed))
    }

    private fun run(words: Words): JSONObject {
        val job = job(words)
        val effort =
            Effort(words.whole("--min-runs", 64, 1), words.seconds("--min-seconds", 1.0), words.seconds("--warmup-seconds", 0.25))
        words.end()
        val startedAt = Instant.now().truncatedTo(ChronoUnit.SECONDS).toString()
        val before = Facts.state(context)
        val memory = memory(job)
        val (timing, session, loadNs) = timed(job, effort)
        val after = Facts.state(context)
        return JSONObject()
            .put("schema", 1)
            .putAll(job.artifact())
            .put("device", Facts.device(context).put("before", before.getJSONObject("phone")).put("after", after.getJSONObject("phone")))
            .put("runtime", session)
            .put("load_ns", loadNs)
            .put("first_run_ns", timing.firstRunNs)
            .put("refills_input", timing.refillsInput)
            .put("warmup", entries(timing.warmup))
            .put("runs", entries(timing.runs))
            .put("temperature_c", pair(before, after, "temperature_c"))
            .put("frequency_hz", pair(before, after, "frequency_hz"))
            .put("throttled_before", before.get("throttled"))
            .put("throttled", after.get("throttled"))
            .put("load_average", pair(before, after, "load_average"))
            .putAll(memory)
            .put("started_at", startedAt)
            .put("tools", tools(job.engine))
    }

    /** Memory is a pass of its own: nothing that timing needs is in it. */
    private fun memory(job: Job): JSONObject {
        Facts.resetPeak()
        val before = Facts.memoryBytes("VmRSS")
        job.load().use { session ->
            session.set(job.inputs(session))
            job.explained("failed while running it") { repeat(2) { session.invoke() } }
            return JSONObject().put("peak_rss_bytes", Facts.memoryBytes("VmHWM")).put("rss_before_load_bytes", before)
        }
    }

    private fun timed(
        job: Job,
        effort: Effort
    ): Triple<Timing, JSONObject, Long> {
        val begin = System.nanoTime()
        job.load().use { session ->
            val loadNs = System.nanoTime() - begin
            session.set(job.inputs(session))
            val timing =
                job.explained("failed while running it") {
                    Measure.time(session, effort) { progress((100 * it).toInt(), 100) }
                }
            return Triple(timing, runtime(job, session), loadNs)
        }
    }

    private fun predict(words: Words): JSONObject {
        val job = job(words)
        val samples = job.samples ?: throw InferenceException("predict needs --inputs")
        val out = output(words.text("--out") ?: throw InferenceException("predict needs --out"))
        val start = words.whole("--start", 0, 0)
        val count = words.whole("--count", samples.count - start, 1)
        words.flag("--progress")
        words.end()
        if (start >= samples.count || count > samples.count - start) {
            throw InferenceException("--inputs holds ${samples.count} samples; --start and --count ask for $start to ${start.toLong() + count}")
        }
        val begin = System.nanoTime()
        job.load().use { session ->
            val info = samples.check(session.inputs)
            val rows = session.outputs.map { NpyRows(it.name) }
            val buffer = info.buffer()
            for (index in start until start + count) {
                info.fill(samples.get(index), buffer)
                session.set(listOf(buffer))
                job.explained("failed at sample $index") { session.invoke() }
                session.outputs.forEachIndexed { i, output ->
                    rows[i].append(output.real(session.get()[i]), if (output.shape.firstOrNull() == 1) output.shape.drop(1) else output.shape)
                }
                progress(index - start + 1, count)
            }
            writeNpz(out, rows.withIndex().associate { (i, one) -> "output_$i" to one.npy(count) })
            return JSONObject()
                .put("schema", 1)
                .put("artifact_sha256", job.sha256)
                .put("runtime", runtime(job, session))
                .put("samples", count)
                .put("start", start)
                .put("outputs", JSONArray(session.outputs.map(::described)))
                .put("predictions", out.name)
                .put("predictions_sha256", sha256(out))
                .put("peak_rss_bytes", Facts.memoryBytes("VmHWM"))
                .put("seconds", (System.nanoTime() - begin) / 1e9)
                .put("tools", tools(job.engine))
        }
    }

    /** One picture, stage by stage: what `inv trace` compares with the host's. */
    private fun trace(words: Words): JSONObject {
        val image = input(words.text("--image") ?: throw InferenceException("trace needs --image"))
        val preprocessing = Preprocessing.read(JSONObject(words.text("--preprocessing") ?: throw InferenceException("trace needs --preprocessing")))
        val layout = words.text("--layout")
        val out = output(words.text("--out") ?: throw InferenceException("trace needs --out"))
        val job = job(words)
        words.end()
        val decoded = Pictures.decode(image.readBytes()).converted(preprocessing.color)
        val fitted = decoded.fitted(preprocessing)
        job.load().use { session ->
            val info = session.inputs.single()
            val buffer = info.buffer()
            info.fill(fitted.input(layout), buffer)
            val arrays = linkedMapOf("decoded" to npy(decoded), "resized" to npy(fitted), "input_0" to npy("<f4", info.shape, littleEndian(info.real(buffer))))
            session.set(listOf(buffer))
            job.explained("failed while running it") { session.invoke() }
            session.outputs.zip(session.get()).forEachIndexed { i, (output, content) ->
                arrays["output_$i"] = npy("<f4", output.shape, littleEndian(output.real(content)))
            }
            writeNpz(out, arrays)
            return JSONObject()
                .put("schema", 1)
                .put("artifact_sha256", job.sha256)
                .put("runtime", runtime(job, session))
                .put("outputs", JSONArray(session.outputs.map(::described)))
                .put("trace", out.name)
                .put("trace_sha256", sha256(out))
                .put("tools", tools(job.engine))
        }
    }

    private fun job(words: Words): Job {
        val path = words.plain() ?: throw InferenceException("no model file; give the path of one")
        val file = input(path)
        val name = words.text("--runtime")
        val engine = if (name == null) Engines.forFile(file.name) else Engines.named(name)
        if (!file.name.endsWith(engine.suffix)) throw InferenceException("$path: ${engine.name} runs ${engine.suffix} files")
        engine.missing()?.let { throw InferenceException("${engine.name}: $it; build the app with it: inv android.build --engine ${engine.name}") }
        val threads = words.whole("--threads", 1, 1)
        val cores = Runtime.getRuntime().availableProcessors()
        if (threads > cores) throw InferenceException("--threads $threads: this phone has $cores processors")
        val layout = words.text("--layout")
        if (layout !in listOf(null, "NHWC", "NCHW")) throw InferenceException("--layout is NHWC or NCHW, not '$layout'")
        words.flag("--verbose")
        val samples = words.text("--inputs")?.let { Samples(input(it), layout == "NCHW") }
        if (layout != null && samples == null) throw InferenceException("--layout says how to turn samples; give them with --inputs")
        return Job(file, engine, Options(threads, words.text("--delegate")), samples)
    }

    /** A file to be read: one that the request names, so that its content has been checked. */
    private fun input(path: String): File {
        if (path !in allowed) throw InferenceException("$path is not among the request's files")
        return File(path)
    }

    /** A file to be written: a plain name in the run's own folder. */
    private fun output(name: String): File {
        if (!OUTPUT.matches(name)) throw InferenceException("--out is a plain file name (letters, digits, '.', '_', '-'), not '$name'")
        return File(results, name)
    }

    private fun runtime(
        job: Job,
        session: Session
    ): JSONObject =
        JSONObject()
            .put("name", job.engine.name)
            .put("version", version(job.engine))
            .put("threads", job.options.threads)
            .put("delegate", session.delegate)

    private fun version(engine: Engine): String = Facts.declared(context, "org.lastmile.${engine.name}.version")

    private fun tools(engine: Engine?): JSONObject {
        val versions = JSONObject().put("app", Facts.appVersion(context)).put("android", android.os.Build.VERSION.RELEASE)
        return if (engine == null) versions else versions.put(engine.name, version(engine))
    }

    private companion object {
        val OUTPUT = Regex("[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")
    }
}

/** What is to be run: edge-bench's Job. */
private class Job(
    val file: File,
    val engine: Engine,
    val options: Options,
    val samples: Samples?
) {
    val sha256 = sha256(file)

    fun artifact(): JSONObject = JSONObject().put("artifact_sha256", sha256).put("size_bytes", file.length())

    fun load(): Session =
        try {
            engine.load(file, options)
        } catch (error: InferenceException) {
            throw InferenceException("${file.path}: ${engine.name} refuses to load it (${error.message})", error)
        }

    /** Buffers with the first sample, or with a fixed pseudo-random input. */
    fun inputs(session: Session): List<java.nio.ByteBuffer> {
        if (samples == null) return session.inputs.map { Samples.pseudoRandom(it) }
        val info = samples.check(session.inputs)
        return listOf(info.buffer().also { info.fill(samples.get(0), it) })
    }

    /** A runtime's own reason, with what it was about. */
    fun <T> explained(
        what: String,
        body: () -> T
    ): T =
        try {
            body()
        } catch (error: InferenceException) {
            throw InferenceException("${file.path}: ${engine.name} $what (${error.message})", error)
        }
}

private fun described(info: TensorInfo): JSONObject =
    JSONObject()
        .put("name", info.name)
        .put("shape", JSONArray(info.shape))
        .put("dtype", info.dtype.label)
        .put("scale", info.scale?.toDouble() ?: JSONObject.NULL)
        .put("zero_point", info.zeroPoint ?: JSONObject.NULL)

private fun npy(pixels: Pixels) = npy("|u1", listOf(pixels.height, pixels.width, pixels.channels), pixels.values)

private fun entries(list: List<Entry>) = JSONArray(list.map { JSONArray(listOf(it.loops, it.ns)) })

private fun pair(
    before: JSONObject,
    after: JSONObject,
    key: String
) = JSONArray(listOf(before.get(key), after.get(key)))

/** Adds all of another object's entries. */
internal fun JSONObject.putAll(other: JSONObject): JSONObject = apply { other.keys().forEach { put(it, other.get(it)) } }

/** The words of a command: each option once, as `--name value` or `--name`; what is left at the end is an error. */
private class Words(words: List<String>) {
    private val left = words.toMutableList()

    fun text(option: String): String? {
        val at = left.indexOf(option)
        if (at < 0) return null
        if (at + 1 >= left.size) throw InferenceException("$option needs a value")
        left.removeAt(at)
        return left.removeAt(at)
    }

    fun flag(option: String): Boolean = left.remove(option)

    fun plain(): String? = if (left.firstOrNull()?.startsWith("--") == false) left.removeAt(0) else null

    fun whole(
        option: String,
        default: Int,
        least: Int
    ): Int {
        val text = text(option) ?: return default
        val value = text.toIntOrNull()
        if (value == null || value < least) throw InferenceException("$option: '$text' is not a whole number of $least or more")
        return value
    }

    fun seconds(
        option: String,
        default: Double
    ): Double {
        val text = text(option) ?: return default
        val value = text.toDoubleOrNull()
        if (value == null || !value.isFinite() || value < 0) throw InferenceException("$option: '$text' is not a number of seconds, 0 or more")
        return value
    }

    fun end() {
        if (left.isNotEmpty()) throw InferenceException("unknown word '${left.first()}'")
    }

    fun none() = end()
}

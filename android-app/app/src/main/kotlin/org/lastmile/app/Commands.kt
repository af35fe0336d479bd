package org.lastmile.app

import android.content.Context
import java.io.File
import java.time.Instant
import java.time.temporal.ChronoUnit
import org.json.JSONArray
import org.json.JSONObject
import org.lastmile.inference.Engine
import org.lastmile.inference.Engines
import org.lastmile.inference.Images
import org.lastmile.inference.InferenceException
import org.lastmile.inference.Options
import org.lastmile.inference.Pixels
import org.lastmile.inference.Preprocessing
import org.lastmile.inference.Session
import org.lastmile.inference.TensorInfo
import org.lastmile.inference.sha256

/**
 * edge-bench's commands, with the same arguments, JSON and files, so that the host treats a phone like any other device.
 *
 * @property results the folder for output files.
 * @property allowed the files that may be read; their SHA-256 has been verified.
 * @property progress called with the progress from 0 to 1, in the measuring thread and outside the measured spans: it must be quick.
 */
class Commands(
    private val context: Context,
    private val results: File,
    private val allowed: Set<String>,
    private val progress: (Double) -> Unit = {}
) {
    /** Runs one command. Throws an [InferenceException] with a one-line message if it fails. */
    fun execute(command: List<String>): JSONObject {
        val name = command.firstOrNull() ?: throw InferenceException("no command; known: facts, memory, predict, run, runtimes, trace")
        val arguments = Arguments(command.drop(1))
        return when (name) {
            "run" -> run(arguments)
            "memory" -> memory(arguments)
            "predict" -> predict(arguments)
            "trace" -> trace(arguments)
            "facts" -> arguments.end().let {
                JSONObject()
                    .put("schema", 2)
                    .put("device", Facts.device(context))
                    .putAll(Facts.state(context))
                    .put("peak_rss_reset", Facts.resetPeak())
                    .put("pss_bytes", Facts.pssBytes() ?: JSONObject.NULL)
                    .put("tools", tools(null))
            }
            "runtimes" -> arguments.end().let { runtimes() }
            else -> throw InferenceException("unknown command '$name'; known: facts, memory, predict, run, runtimes, trace")
        }
    }

    private fun runtimes(): JSONObject {
        val listed =
            Engines.all.map { engine ->
                val reason = engine.unavailable()
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

    /** Measures latency. Loading the model and its first run are the first things that happen to it in this process. */
    private fun run(arguments: Arguments): JSONObject {
        val job = job(arguments)
        if (arguments.text("--cpus") != null) throw InferenceException("--cpus: Android gives apps no way to pin a process to CPUs")
        val effort = effort(arguments)
        arguments.end()
        val startedAt = Instant.now().truncatedTo(ChronoUnit.SECONDS).toString()
        val before = Facts.state(context)
        val memory = Memory.begin()
        Foreground.begin(context)
        val begin = System.nanoTime()
        job.load().use { session ->
            val loadNs = System.nanoTime() - begin
            session.setInputs(job.inputs(session))
            val conditions = Conditions(context)
            val measure =
                Measure(session, effort, { now, done ->
                    progress(done)
                    conditions.between(now)
                })
            val timing = job.wrapErrors("failed while running it") { measure.time() }
            val sampled = conditions.facts()
            val foreground = Foreground.facts()
            val peak = memory.end("run")
            val after = Facts.state(context)
            return JSONObject()
                .put("schema", 2)
                .putAll(job.artifactFacts())
                .put("device", Facts.device(context).put("before", before.getJSONObject("phone")).put("after", after.getJSONObject("phone")))
                .put("runtime", runtime(job, session))
                .put("load_ns", loadNs)
                .put("first_run_ns", timing.firstRunNs)
                .put("refills_input", timing.refillsInput)
                .put("includes_input_copy", timing.includesInputCopy)
                .put("warmup", entries(timing.warmup))
                .put("runs", entries(timing.runs))
                .put("single_runs", JSONArray(timing.singleRunsNs))
                .put("clock_ns", timing.clockNs)
                .put("temperature_c", pair(before, after, "temperature_c"))
                .put("frequency_hz", pair(before, after, "frequency_hz"))
                .put("throttled_before", before.get("throttled"))
                .put("throttled", after.get("throttled"))
                .put("load_average", pair(before, after, "load_average"))
                .putAll(sampled)
                .putAll(foreground)
                .putAll(peak)
                .put("started_at", startedAt)
                .put("tools", tools(job.engine))
        }
    }

    /**
     * Measures the memory of a model that is loaded and run twice, with the arguments of "run". The host calls it in a process of its own,
     * so that it neither warms up a measurement of latency nor contains what that allocates.
     */
    private fun memory(arguments: Arguments): JSONObject {
        val job = job(arguments)
        effort(arguments)
        arguments.end()
        val pssBefore = Facts.pssBytes()
        val memory = Memory.begin()
        job.load().use { session ->
            session.setInputs(job.inputs(session))
            job.wrapErrors("failed while running it") { repeat(2) { session.invoke() } }
            val found = memory.end("memory")
            return JSONObject()
                .put("schema", 1)
                .putAll(job.artifactFacts())
                .put("runtime", runtime(job, session))
                .putAll(found)
                .put("pss_before_load_bytes", pssBefore ?: JSONObject.NULL)
                .put("pss_bytes", Facts.pssBytes() ?: JSONObject.NULL)
                .put("tools", tools(job.engine))
        }
    }

    private fun effort(arguments: Arguments) =
        Effort(arguments.integer("--min-runs", 64, 1), arguments.seconds("--min-seconds", 1.0), arguments.seconds("--warmup-seconds", 0.25))

    /** The process's peak memory from [begin] to [end]. */
    private class Memory private constructor(private val reset: Boolean, private val beforeBytes: Long) {
        /** @param process the command whose process this is. */
        fun end(process: String): JSONObject =
            JSONObject()
                .put("memory_process", process)
                .put("rss_before_load_bytes", beforeBytes)
                .put("peak_rss_bytes", Facts.memoryBytes("VmHWM"))
                .put("peak_rss_reset", reset)

        companion object {
            fun begin() = Memory(Facts.resetPeak(), Facts.memoryBytes("VmRSS"))
        }
    }

    private fun predict(arguments: Arguments): JSONObject {
        val job = job(arguments)
        val samples = job.samples ?: throw InferenceException("predict requires --inputs")
        val out = output(arguments.text("--out") ?: throw InferenceException("predict requires --out"))
        val start = arguments.integer("--start", 0, 0)
        val count = arguments.integer("--count", samples.count - start, 1)
        arguments.flag("--progress")
        arguments.end()
        if (start >= samples.count || count > samples.count - start) {
            throw InferenceException("--inputs has ${samples.count} samples; --start and --count select samples $start to ${start.toLong() + count}")
        }
        val begin = System.nanoTime()
        job.load().use { session ->
            val info = samples.matchInput(session.inputs)
            val rows = session.outputs.map { NpyRows(it.name, results) }
            try {
                val buffer = info.allocate()
                for (index in start until start + count) {
                    info.write(samples.get(index), buffer)
                    session.setInputs(listOf(buffer))
                    job.wrapErrors("failed at sample $index") { session.invoke() }
                    session.outputs.forEachIndexed { i, output ->
                        rows[i].append(output.read(session.readOutputs()[i]), if (output.shape.firstOrNull() == 1) output.shape.drop(1) else output.shape)
                    }
                    progress((index - start + 1.0) / count)
                }
                writeNpz(out, rows.withIndex().associate { (i, output) -> "output_$i" to output.npy(count) })
            } finally {
                rows.forEach { it.close() }
            }
            return JSONObject()
                .put("schema", 1)
                .put("artifact_sha256", job.sha256)
                .put("runtime", runtime(job, session))
                .put("samples", count)
                .put("start", start)
                .put("outputs", JSONArray(session.outputs.map(::toJson)))
                .put("predictions", out.name)
                .put("predictions_sha256", sha256(out))
                .put("peak_rss_bytes", Facts.memoryBytes("VmHWM"))
                .put("seconds", (System.nanoTime() - begin) / 1e9)
                .put("tools", tools(job.engine))
        }
    }

    /** Runs one image and writes the result of every stage, which `inv trace` compares with the host's. */
    private fun trace(arguments: Arguments): JSONObject {
        val image = input(arguments.text("--image") ?: throw InferenceException("trace requires --image"))
        val preprocessing = Preprocessing.read(JSONObject(arguments.text("--preprocessing") ?: throw InferenceException("trace requires --preprocessing")))
        val layout = arguments.text("--layout")
        val out = output(arguments.text("--out") ?: throw InferenceException("trace requires --out"))
        val job = job(arguments)
        arguments.end()
        val decoded = Images.decode(image.readBytes()).convertedTo(preprocessing.color)
        val resized = decoded.preprocessed(preprocessing)
        job.load().use { session ->
            val info = session.inputs.single()
            val buffer = info.allocate()
            info.write(resized.toFloats(layout), buffer)
            val arrays = linkedMapOf("decoded" to npy(decoded), "resized" to npy(resized), "input_0" to npy("<f4", info.shape, littleEndian(info.read(buffer))))
            session.setInputs(listOf(buffer))
            job.wrapErrors("failed while running it") { session.invoke() }
            session.outputs.zip(session.readOutputs()).forEachIndexed { i, (output, content) ->
                arrays["output_$i"] = npy("<f4", output.shape, littleEndian(output.read(content)))
            }
            writeNpz(out, arrays)
            return JSONObject()
                .put("schema", 1)
                .put("artifact_sha256", job.sha256)
                .put("runtime", runtime(job, session))
                .put("outputs", JSONArray(session.outputs.map(::toJson)))
                .put("trace", out.name)
                .put("trace_sha256", sha256(out))
                .put("tools", tools(job.engine))
        }
    }

    private fun job(arguments: Arguments): Job {
        val path = arguments.positional() ?: throw InferenceException("no model file; give its path")
        val file = input(path)
        val name = arguments.text("--runtime")
        val engine = if (name == null) Engines.forFile(file.name) else Engines.byName(name)
        if (!file.name.endsWith(engine.suffix)) throw InferenceException("$path: ${engine.name} runs ${engine.suffix} files")
        engine.unavailable()?.let { throw InferenceException("${engine.name}: $it; build the app with it: inv android.build --engine ${engine.name}") }
        val threads = arguments.integer("--threads", 1, 1)
        val cores = Runtime.getRuntime().availableProcessors()
        if (threads > cores) throw InferenceException("--threads $threads: this phone has $cores cores")
        val layout = arguments.text("--layout")
        if (layout !in listOf(null, "NHWC", "NCHW")) throw InferenceException("--layout must be NHWC or NCHW, not '$layout'")
        arguments.flag("--verbose")
        val samples = arguments.text("--inputs")?.let { Samples(input(it), layout == "NCHW") }
        if (layout != null && samples == null) throw InferenceException("--layout requires --inputs")
        return Job(file, engine, Options(threads, arguments.text("--delegate")), samples)
    }

    /** A file to read. It must be in the request, so that its SHA-256 has been verified. */
    private fun input(path: String): File {
        if (path !in allowed) throw InferenceException("$path is not one of the request's files")
        return File(path)
    }

    /** A file to write, in the run's own folder. */
    private fun output(name: String): File {
        if (!OUTPUT_NAME.matches(name)) throw InferenceException("--out must be a plain file name (letters, digits, '.', '_', '-'), not '$name'")
        return File(results, name)
    }

    private fun runtime(
        job: Job,
        session: Session
    ): JSONObject =
        JSONObject()
            .put("name", Libraries.name(job.engine))
            .put("version", version(job.engine))
            .put("library_sha256", Libraries.sha256(context, job.engine) ?: JSONObject.NULL)
            .put("threads", job.options.threads)
            .put("delegate", session.delegate)
            .put("cpus", JSONObject.NULL)

    private fun version(engine: Engine): String = Libraries.version(context, engine)

    private fun tools(engine: Engine?): JSONObject {
        val versions = JSONObject().put("app", Facts.appVersion(context)).put("android", android.os.Build.VERSION.RELEASE)
        return if (engine == null) versions else versions.put(Libraries.name(engine), version(engine))
    }

    private companion object {
        val OUTPUT_NAME = Regex("[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")
    }
}

/** What to run; edge-bench's Job. */
private class Job(
    val file: File,
    val engine: Engine,
    val options: Options,
    val samples: Samples?
) {
    val sha256 = sha256(file)

    fun artifactFacts(): JSONObject = JSONObject().put("artifact_sha256", sha256).put("size_bytes", file.length())

    fun load(): Session =
        try {
            engine.load(file, options)
        } catch (error: InferenceException) {
            throw InferenceException("${file.path}: ${engine.name} refuses to load it (${error.message})", error)
        }

    /** Input buffers with the first sample, or with fixed pseudo-random values if there are no samples. */
    fun inputs(session: Session): List<java.nio.ByteBuffer> {
        if (samples == null) return session.inputs.map { Samples.pseudoRandom(it) }
        val info = samples.matchInput(session.inputs)
        return listOf(info.allocate().also { info.write(samples.get(0), it) })
    }

    /** Adds the file, the runtime and [what] failed to the runtime's error message. */
    fun <T> wrapErrors(
        what: String,
        body: () -> T
    ): T =
        try {
            body()
        } catch (error: InferenceException) {
            throw InferenceException("${file.path}: ${engine.name} $what (${error.message})", error)
        }
}

private fun toJson(info: TensorInfo): JSONObject =
    JSONObject()
        .put("name", info.name)
        .put("shape", JSONArray(info.shape))
        .put("dtype", info.dtype.numpyName)
        .put("scale", info.scale?.toDouble() ?: JSONObject.NULL)
        .put("zero_point", info.zeroPoint ?: JSONObject.NULL)

private fun npy(pixels: Pixels) = npy("|u1", listOf(pixels.height, pixels.width, pixels.channels), pixels.values)

private fun entries(list: List<Entry>) = JSONArray(list.map { JSONArray(listOf(it.loops, it.ns)) })

private fun pair(
    before: JSONObject,
    after: JSONObject,
    key: String
) = JSONArray(listOf(before.get(key), after.get(key)))

/** Adds all entries of another object. */
internal fun JSONObject.putAll(other: JSONObject): JSONObject = apply { other.keys().forEach { put(it, other.get(it)) } }

/** A command's arguments: each option once, as `--name value` or `--name`. [end] rejects what was not read. */
private class Arguments(arguments: List<String>) {
    private val remaining = arguments.toMutableList()

    fun text(option: String): String? {
        val at = remaining.indexOf(option)
        if (at < 0) return null
        if (at + 1 >= remaining.size) throw InferenceException("$option requires a value")
        remaining.removeAt(at)
        return remaining.removeAt(at)
    }

    fun flag(option: String): Boolean = remaining.remove(option)

    fun positional(): String? = if (remaining.firstOrNull()?.startsWith("--") == false) remaining.removeAt(0) else null

    fun integer(
        option: String,
        default: Int,
        min: Int
    ): Int {
        val text = text(option) ?: return default
        val value = text.toIntOrNull()
        if (value == null || value < min) throw InferenceException("$option must be an integer of at least $min, not '$text'")
        return value
    }

    fun seconds(
        option: String,
        default: Double
    ): Double {
        val text = text(option) ?: return default
        val value = text.toDoubleOrNull()
        if (value == null || !value.isFinite() || value < 0) throw InferenceException("$option must be a number of seconds of at least 0, not '$text'")
        return value
    }

    fun end() {
        if (remaining.isNotEmpty()) throw InferenceException("unrecognized argument '${remaining.first()}'")
    }
}

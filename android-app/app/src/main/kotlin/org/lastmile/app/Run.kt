package org.lastmile.app

import android.content.Context
import android.util.Log
import java.io.File
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject
import org.lastmile.inference.InferenceException
import org.lastmile.inference.sha256

/**
 * One command of the host's: read from its folder, checked, answered by a file.
 *
 * @property id as the host named it; also the name of the folders on both sides.
 */
class Run private constructor(
    private val context: Context,
    val id: String,
    private val results: File,
    private val place: String
) {
    private var told = 0L

    /** Runs the command and writes its answer, whatever comes of it. */
    fun work() {
        results.deleteRecursively()
        val answer =
            attempt {
                if (!results.mkdirs()) throw IOException("cannot make $results")
                val request = request()
                val verbs = Verbs(context, results, checked(request), ::progress)
                val words = request.getJSONArray("words")
                val out = verbs.answer(List(words.length()) { words.getString(it) })
                answer(0, out.toString(1) + "\n", "")
            }.getOrElse { error ->
                Log.w(TAG, "run $id", error)
                failed(
                    when (error) {
                        is InferenceException -> error.message.orEmpty()
                        is JSONException -> "the request is not of this form (${error.message}); the app may be older than the host: install it anew"
                        else -> line(error)
                    }
                )
            }
        write(answer)
    }

    /** Answers without running. */
    fun refuse(reason: String) = write(failed(reason))

    private fun request(): JSONObject {
        val file = File("$place/runs/$id/request.json")
        if (file.length() > LARGEST_REQUEST) throw InferenceException("$file has ${file.length()} bytes; a request is small")
        val request = JSONObject(file.readText())
        val schema = request.getInt("schema")
        if (schema != 1) throw InferenceException("the request's schema is $schema and this app reads 1; install the app anew")
        if (request.getString("run") != id) throw InferenceException("$file is of another run")
        return request
    }

    /** The request's files, each of which is where it may be and what the host says it is. */
    private fun checked(request: JSONObject): Set<String> {
        val files = request.optJSONObject("files") ?: JSONObject()
        for (path in files.keys()) {
            val file = File(path)
            if (!path.startsWith("$place/files/") || file.canonicalPath != path) throw InferenceException("$path is outside of $place/files")
            if (!file.isFile) throw InferenceException("$path is not there; push it again")
            if (sha256(file) != files.getString(path)) throw InferenceException("$path is not what the host sent (sha256 differs); push it again")
        }
        return files.keys().asSequence().toSet()
    }

    private fun failed(reason: String): JSONObject = answer(2, "", "edge-bench: ${reason.lineSequence().joinToString(" ") { it.trim() }.trim()}\n")

    private fun answer(
        code: Int,
        out: String,
        err: String
    ): JSONObject = JSONObject().put("schema", 1).put("code", code).put("out", out).put("err", err)

    private fun write(answer: JSONObject) {
        results.mkdirs()
        Log.i(TAG, "run $id: code ${answer.getInt("code")} ${answer.getString("err").trim()}")
        writeWhole(File(results, "result.json")) { it.write(answer.toString(1).toByteArray()) }
    }

    /** A line now and then: at the end, and otherwise no more than one in a tenth of a second. */
    private fun progress(
        done: Int,
        of: Int
    ) {
        val now = System.nanoTime()
        if (done < of && now - told < EVERY_NS) return
        told = now
        File(results, "progress.jsonl").appendText("{\"done\": $done, \"of\": $of}\n")
    }

    companion object {
        /** The folder that the adb shell writes to and this app reads. */
        const val PLACE = "/data/local/tmp/lastmile"
        private const val TAG = "Lastmile"
        private const val LARGEST_REQUEST = 1 shl 20
        private const val EVERY_NS = 100_000_000L
        private val ID = Regex("[0-9a-f]{8,64}")

        /** The run of that name, asked for in [place]; null where this is no name of a run. */
        fun named(
            context: Context,
            id: String?,
            place: String = PLACE
        ): Run? {
            if (id == null || !ID.matches(id)) return null
            val files = context.getExternalFilesDir(null) ?: return null
            return Run(context, id, File(files, "runs/$id"), place)
        }
    }
}

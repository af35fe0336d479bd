package org.lastmile.app

import android.content.Context
import android.util.Log
import java.io.File
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject
import org.lastmile.inference.InferenceException
import org.lastmile.inference.sha256
import org.lastmile.inference.writeAtomically

/**
 * One command from the host: reads the request, verifies its files, runs it and writes the result to a file.
 *
 * @property id the ID that the host assigned; also the name of the run's folders in [FOLDER] and in the app's own folder.
 */
class Run private constructor(
    private val context: Context,
    val id: String,
    private val results: File,
    private val folder: String
) {
    /** Runs the command and writes its result, or the error if it fails. */
    fun execute() {
        results.deleteRecursively()
        val result =
            attempt {
                if (!results.mkdirs()) throw IOException("cannot create $results")
                val request = readRequest()
                val commands = Commands(context, results, verifiedFiles(request))
                val arguments = request.getJSONArray("words")
                val out = commands.execute(List(arguments.length()) { arguments.getString(it) })
                result(0, out.toString(1) + "\n", "")
            }.getOrElse { error ->
                Log.w(TAG, "run $id", error)
                failure(
                    when (error) {
                        is InferenceException -> error.message.orEmpty()
                        is JSONException -> "the request has an invalid format (${error.message}); the app may be older than the host: reinstall it"
                        else -> oneLine(error)
                    }
                )
            }
        write(result)
    }

    /** Writes an error as the result, without running the command. */
    fun refuse(reason: String) = write(failure(reason))

    private fun readRequest(): JSONObject {
        val file = File("$folder/runs/$id/request.json")
        if (file.length() > MAX_REQUEST_BYTES) throw InferenceException("$file has ${file.length()} bytes; the limit for a request is $MAX_REQUEST_BYTES")
        val request = JSONObject(file.readText())
        val schema = request.getInt("schema")
        if (schema != 1) throw InferenceException("the request has schema $schema; this app reads schema 1: reinstall the app")
        if (request.getString("run") != id) throw InferenceException("$file belongs to another run")
        return request
    }

    /** The request's files, after checking that each is in the permitted folder and has the SHA-256 that the host gave. */
    private fun verifiedFiles(request: JSONObject): Set<String> {
        val files = request.optJSONObject("files") ?: JSONObject()
        for (path in files.keys()) {
            val file = File(path)
            if (!path.startsWith("$folder/files/") || file.canonicalPath != path) throw InferenceException("$path is outside $folder/files")
            if (!file.isFile) throw InferenceException("$path does not exist; push it again")
            if (sha256(file) != files.getString(path)) throw InferenceException("$path is not the file that the host sent (sha256 differs); push it again")
        }
        return files.keys().asSequence().toSet()
    }

    private fun failure(reason: String): JSONObject = result(2, "", "edge-bench: ${reason.lineSequence().joinToString(" ") { it.trim() }.trim()}\n")

    private fun result(
        code: Int,
        out: String,
        err: String
    ): JSONObject = JSONObject().put("schema", 1).put("code", code).put("out", out).put("err", err)

    private fun write(result: JSONObject) {
        results.mkdirs()
        Log.i(TAG, "run $id: code ${result.getInt("code")} ${result.getString("err").trim()}")
        writeAtomically(File(results, "result.json")) { it.write(result.toString(1).toByteArray()) }
    }

    companion object {
        /** The folder that the adb shell writes and this app reads. */
        const val FOLDER = "/data/local/tmp/lastmile"
        private const val TAG = "Lastmile"
        private const val MAX_REQUEST_BYTES = 1 shl 20
        private val ID = Regex("[0-9a-f]{8,64}")

        /** The run with this ID, whose request is in [folder]; null if the ID is invalid. */
        fun byId(
            context: Context,
            id: String?,
            folder: String = FOLDER
        ): Run? {
            if (id == null || !ID.matches(id)) return null
            val files = context.getExternalFilesDir(null) ?: return null
            return Run(context, id, File(files, "runs/$id"), folder)
        }
    }
}

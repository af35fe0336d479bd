package org.lastmile.inference

import android.content.Context
import android.system.Os
import java.io.File
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject

/** Artifacts in the assets of an app. */
object Bundled {
    private const val PRIVATE = 448 // 0700
    private const val MANIFEST = "artifact.json"
    private val SHA256 = Regex("[0-9a-f]{64}")

    /**
     * Unpacks the artifact in a folder of the assets, and all files beside it, because the runtimes need files. The new folder can be
     * opened by the app only. What was unpacked before stays if it is complete; other versions are deleted. Do not call it in the UI thread.
     *
     * @return the folder, for [Artifact.read].
     */
    @Synchronized
    fun unpack(
        context: Context,
        path: String
    ): File {
        try {
            val sha256 = JSONObject(context.assets.open("$path/$MANIFEST").use { String(it.readBytes()) }).getString("sha256")
            if (!SHA256.matches(sha256)) throw InferenceException("assets/$path/$MANIFEST: sha256 is not a hash")
            val versions = File(context.noBackupFilesDir, "lastmile/$path")
            versions
                .listFiles()
                .orEmpty()
                .filter { it.name != sha256 }
                .forEach { it.deleteRecursively() }
            val folder = File(versions, sha256).also { it.mkdirs() }
            Os.chmod(folder.path, PRIVATE)
            // The manifest is always written: another file could have been unpacked with it.
            copy(context, "$path/$MANIFEST", File(folder, MANIFEST))
            val model = Artifact.read(folder).file
            for (name in context.assets.list(path).orEmpty().filter { it != MANIFEST }) {
                val file = File(folder, name)
                if (!file.exists() || (file == model && sha256(file) != sha256)) copy(context, "$path/$name", file)
            }
            return folder
        } catch (error: IOException) {
            throw InferenceException("cannot unpack assets/$path (${error.message})", error)
        } catch (error: JSONException) {
            throw InferenceException("assets/$path/$MANIFEST is not a valid artifact manifest (${error.message})", error)
        }
    }

    private fun copy(
        context: Context,
        path: String,
        file: File
    ) = writeAtomically(file) { out -> context.assets.open(path).use { it.copyTo(out) } }
}

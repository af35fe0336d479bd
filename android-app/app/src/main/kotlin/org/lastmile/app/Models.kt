package org.lastmile.app

import android.content.Context
import java.io.File
import org.lastmile.inference.Artifact
import org.lastmile.inference.InferenceException

/** The artifacts that the app knows: those inside the APK, and those that adb pushed into its own folder. */
object Models {
    /** Every artifact that can be read, those inside the APK first; a broken one is passed over here and named by the host. */
    fun all(context: Context): List<Artifact> {
        val pushed = context.getExternalFilesDir("models")?.listFiles().orEmpty().sortedBy { it.name }
        return (inside(context) + pushed).mapNotNull {
            try {
                Artifact.read(it)
            } catch (broken: InferenceException) {
                null.also { _ -> android.util.Log.w("Lastmile", broken.message.orEmpty()) }
            }
        }
    }

    /** Folders of the artifacts inside the APK, unpacked once for each version: runtimes want files. */
    private fun inside(context: Context): List<File> {
        val home = File(context.noBackupFilesDir, "models-${Facts.appVersion(context)}")
        // Robolectric lists what lies in a folder's folders, too.
        val names = context.assets.list("models").orEmpty().map { it.substringBefore('/') }.distinct().sorted()
        for (name in names) {
            val folder = File(home, name).also { it.mkdirs() }
            for (file in context.assets.list("models/$name").orEmpty()) {
                val target = File(folder, file)
                if (!target.exists()) writeWhole(target) { out -> context.assets.open("models/$name/$file").use { it.copyTo(out) } }
            }
        }
        return names.map { File(home, it) }
    }
}
